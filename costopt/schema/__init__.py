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
alternatives values of a setting with which ranks, degrees and batch would fit
data_kinds   which models can be trained on which data
selection    which training samples are kept, and their order
recipe       the built-in trainer's settings; optimization, optimization_rules: its optimizer and schedule
early_stopping    when it ends; auto_batch: a global batch whose size is measured
range_report what a learning-rate range test is asked and answers
rank_rules   what the ranks of a training must satisfy
parallelism  how ranks share the work; memory: what is done where it is short
models       the families of models; decoder_lm, encoder, model_families, foreign_models: settings of each
model_family  what the settings of all families declare
data         sources and tokenizer; data_places: where files lie; records: files of named fields
text_sources the sources of text; mixture: several of them; epochs: how often all samples are seen
packing      how a text is cut into samples; data_cache: what of earlier data is not kept
transforms   what is done to documents before they are tokens; augmentations: to training samples, on the fly
data_report  what was read, changed and dropped until there were tokens
compression  variants and their steps
given_model  a model that is there already; evaluation: what it, or one that a command leaves, is measured on
prices       PriceBook
status       what a job's status carries
usage        what replicas held, as a status keeps it
replica      settings handed to a replica, and the messages that come back
artifact     what is written down of an artifact: files, lineage, figures, machine
trial        what an artifact is asked to do, and what it answers
variant_report  what is said of a variant: measured, compared, loaded again; variant_details: what only its file has
accept_rules    what may be asked of a variant, by the data that it is measured on
retraining      steps that train need a recipe
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
