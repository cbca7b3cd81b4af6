"""Models of the Hugging Face library `transformers`.

family      the row of the table: from settings, or from a folder that was written here, to a model
model       one of its models as a LayeredModel, and the files of its folder
layers      the same architecture with fewer layers
lora        low-rank adapters (peft)
cut         what can be cut out of one, and its configuration afterwards; layers: fewer layers
split       how ranks split its tensors: the library's plan in our words
reading     one of its models that only reads texts: how hard they are, where they lie
source      where a model comes from: its folder, checked, or fetched from the hub
library     the packages, imported late and quietly
"""
