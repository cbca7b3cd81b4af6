"""The same attempt of a stage, drawn for one of two worlds. Pure: text and mappings in, text and mappings out.

settings    what is the same in both worlds: settings.json, the launcher's command, its environment
manifests   an attempt as Kubernetes objects: Indexed Job, headless Service, ConfigMap
processes   an attempt as processes of this machine: arguments, environment, files
"""
