"""Variants: the trained model made smaller or faster, measured against that model.

run         one variant from beginning to end (read first)
making      how it comes to be: what a trial and the variant have in common
auto        finds its steps: candidates are tried, halving says which next, trials remembers what was found
origin      the trained model, and the samples that all is measured on
left_folder the same of a command: the Hugging Face folder that it has left
given_folder  the same of a folder that the manifest names, of either kind; labels: its classes and the data's
table       the table of steps
step        the interface of a step, and what it may use
step_checkpoints    checkpoints of steps that train
step_reports        how far they are, and where their time goes
fitting     how they train: by the trainer's own loop
quantize    8-bit weights; fake_quantize: trained with rounding, smooth: flatter activations
fine_tune   the weights as they are, trained on
prune       fewer weights; prune_units: parts that may go, prune_plan: how many, prune_scores: which first
prune_weights       single weights
distill     a student learns from a teacher: student makes it, teaching is what it learns
external    a step of another package
foresight   what is wrong with variants before anything is trained
onnx_form   the ONNX graph of a variant: onnx_export makes it, onnx_quantize gives it fewer bits, gptq rounds them
engines     the ways to run a variant; the fastest is measured
sensitivity how much each layer minds fewer bits
low_rank    factors of matrices; share_weights: one set of weights in several places
measure     variant and baseline, side by side; timing: passes in turn, details: the figures as the report has them
points      other sizes; decoding: token by token; footprint: memory and multiplications
quality     their validation loss, and that of guessing; bootstrap: how sure the difference is
judge       is it accepted? publish: where its folder goes then
overdue     ends a model run that takes too long
torch_export    the model as a program of torch.export
verify      a fresh process loads the artifact and must get the same output
"""
