"""The task of sending wishes: its data, its system prompt, and the original guide's test requests."""

data_path = "outputs/default/02_merge_clean/wishes_train.json"
system = "你现在是一个送祝福大师，帮我针对不同人和事情、节日送对应的祝福"
evaluation_inputs = [
    "祝姐姐生日快乐",
    "祝姐姐生日快乐,小红书风格",
    "祝姐姐生日快乐,严肃风格",
    "祝妹妹谈判顺利,小红书风格",
    "祝大家元宵节快乐",
    "祝领导春节快乐,严肃风格",
]
