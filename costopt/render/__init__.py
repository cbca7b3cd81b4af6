"""Renders an attempt of a stage for one of two worlds. Pure: text and mappings in, text and mappings out.

settings    what both worlds share: the settings, the launcher's command, its environment
manifests   an attempt as Kubernetes objects, in the order to create them
children    each of these objects alone
pods        the pods of an attempt: ours, and what spec.pods adds
labels      what all their metadata has in common
processes   an attempt as processes of this machine: arguments, environment, files
references  references in the value of an environment variable, as a kubelet resolves them
text        manifests and processes as YAML and JSON
"""
