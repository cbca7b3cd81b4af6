"""Models of the Hugging Face library `transformers`.

family      the row of the table: from settings, or from a folder that was written here, to a model
model       one of its models as a LayeredModel, and the files of its folder
lora        low-rank adapters (peft)
split       how ranks split its tensors: the library's plan in our words
source      where a model comes from: its folder, checked, or fetched from the hub
library     the packages, imported late and quietly
"""
