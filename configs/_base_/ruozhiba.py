"""The task of Ruozhiba (questions that sound silly): its data, a test question, its epochs and warm-up."""

data_path = "outputs/default/04_ruozhiba/ruozhiba_train.jsonl"
evaluation_inputs = ["为什么我爸妈结婚的时候没邀请我参加婚礼"]
# The project's sample has 16 training rows: enough to see the format at work, not to learn from. On a CPU
# these are 12 updates, and a warm-up of more than two of them.
max_epochs = 3
warmup_ratio = 0.2
