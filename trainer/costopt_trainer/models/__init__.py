"""The networks that the built-in trainer trains: a new family is a class of settings in the schema, a file here, and a
row in the table.

family       what each row fulfils
table        the word in the manifest -> where its ModelFamily is
decoder_lm   DecoderLM; key_values: what it keeps of a text that it writes
lstm         LSTM
recurrent    a state that is carried from sample to sample
encoder      Encoder
conv_net     ConvNet
res_net      ResNet
mlp          MLP
whole        what models that are not our own share
axes         what the axes of a transformer's parameters are, so that parts can be cut out
light        layers with fewer weights, for any of them; factors: those that compression has put in
shape        all that is needed to build a model of the right shape, as JSON beside its weights
loss         cross-entropy, which all of them are trained with
chunked_loss    the same over a large vocabulary, some tokens at a time
hugging_face/    models of that library
imported     models that a function of the user makes
own_metrics  metrics that such a model brings
onnx_model   a model as an ONNX graph
artifact     a model on disk, rebuilt without code
"""
