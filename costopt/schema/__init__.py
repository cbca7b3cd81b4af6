"""The job's language: what a user may write, what a status may say, and what replicas tell their shell.

base         the strict model, scalar types and rules that both Python and the CRD enforce
unions       classes of which one of several fields is set: rule and sentence from the fields
defaults     plain data with its defaults, as rules see it
bounds       what a field declares at every depth of its type, and whether it holds
resources    Kubernetes quantities as exact decimals
job          CostOptJob and its spec
storage      a job's claim: one that is there, or one to be made
pods         what a user may add to the pods of a job
volumes      further volumes of these pods
degrees      how the degrees of parallelism share out the ranks
data_kinds   which models can be trained on which data
recipe       the built-in trainer's settings; optimization: its optimizer and schedule
rank_rules   what the ranks of a training must satisfy
parallelism  how ranks share the work; memory: what is done where it is short
models       the families of models; decoder_lm, encoder, model_families, foreign_models: settings of each
model_family  what the settings of all families declare
data         sources, transforms and tokenizer
compression  variants and their steps
evaluation   what a model that a command leaves is measured on
prices       PriceBook
status       what a job's status carries
usage        what replicas held, as a status keeps it
replica      settings handed to a replica, and the messages that come back
variant_report  what is said of a variant: measured, compared, loaded again
lines        YAML text -> plain data, with the line of every field
scalars      a plain scalar of YAML -> its value, as kubectl reads it
sentences    one mistake -> the API server's sentence, and what would be right
earlier_words  what earlier versions called otherwise, in what they have left on disk
lenient_parse  documents of another version of the language -> models
kinds        the kinds of resource that are ours, one row each
document     YAML text -> validated documents, or every mistake with its line
crd          models -> CustomResourceDefinitions
reference    models -> docs/reference.md
"""
