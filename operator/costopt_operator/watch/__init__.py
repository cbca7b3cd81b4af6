"""What the cluster holds, as it changes.

list_watch        one kind of object: what is there and each change of it, none missed
children          what belongs to jobs, one kind of object each
object_cache      jobs, price books and all their children, by key
own_kinds         kopf's watch of our own kinds
own_objects       what is known of one kind of ours
price_books       price books, out of objects or out of files
node_reader       what nodes say of their price and health
pod_log_reader    progress, signs of life and last words from pods' logs
work_queue        keys to look at, each once, never by two workers
"""
