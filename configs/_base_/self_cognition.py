"""The task of self-cognition (who are you?): its data, its test questions, its epochs and warm-up."""

data_path = "outputs/default/03_self_cognition/self_cognition.json"
evaluation_inputs = ["你是谁", "请做一下自我介绍", "你是 ChatGPT 吗"]
# few rows: more epochs, and a warm-up of more than two iterations
max_epochs = 4
warmup_ratio = 0.1
