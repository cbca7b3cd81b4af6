"""The same attempt of a stage, drawn for one of two worlds. Pure: text and mappings in, text and mappings out.

settings    what is the same in both worlds: the settings, the launcher's command, its environment
manifests   an attempt as Kubernetes objects, in the order in which to create them
children    each of these objects by itself
pods        the pods of an attempt: ours, and what spec.pods adds
labels      what the metadata of all of them has in common
processes   an attempt as processes of this machine: arguments, environment, files
references  references in the value of an environment variable, as a kubelet resolves them
text        manifests and processes as YAML and JSON
"""
