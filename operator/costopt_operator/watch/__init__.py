"""What the cluster holds, as it changes.

list_watch        one kind of object: all objects and every change of them
children          the children of jobs, one cache per kind of object
object_cache      the whole known state: jobs, price books and children
own_kinds         kopf's watch of our own kinds
own_objects       what is known of one kind of ours
price_books       price books, out of objects or out of files
node_reader       price class and health of nodes
pod_log_reader    progress, signs of life and last lines of logs
work_queue        keys to reconcile, each once, never by two workers
"""
