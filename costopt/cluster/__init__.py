"""The client side of a cluster, only for the command line: the operator has its own.

    access      which cluster and namespace are meant, and whether any is configured
    connect     a kubeconfig or a pod's service account -> a Cluster (the only importer of the kubernetes client)
    handshake   whether a server that closed the connection silently refuses the user's certificate
    api         Cluster: one request, one answer or one sentence
    shapes      reads an API server's answer; values of the wrong type count as absent
    refusals    what the API server or the network said -> the sentence for the user
    troubles    the table of answers that are failures of the cluster, and what each means
    patience    waits out outages, for a while
    jobs        CostOptJobs: read, apply, suspend, delete
    price_books PriceBooks: read, apply
    pods        pods of a job: which replica each is, and what it waits for
    pod_logs    their logs, also while they grow

Documents are plain data. The kubernetes client is used for the hard part (every login method of kubectl), not for its
models, whose import alone takes longer than a whole command.
"""
