"""The client side of a cluster, for the command line alone: the operator has its own.

    access      which cluster and namespace are meant, and whether any is known here
    connect     a kubeconfig or a pod's service account -> a Cluster (the only importer of the kubernetes client)
    handshake   whether a server refuses the user's certificate, when it closed the connection without saying so
    api         Cluster: one request, one answer or one sentence
    shapes      what an API server should have sent; parts of another kind count as not there
    refusals    what the API server or the network said -> the sentence for the user
    troubles    the table of answers that are failures of the cluster, and what each means
    patience    outages are waited out, for a while
    jobs        CostOptJobs: read, apply, suspend, delete
    price_books PriceBooks: read, apply
    pods        pods of a job: which replica each is, and what it waits for
    pod_logs    their logs, also while they are being written

Documents travel as plain data. The kubernetes client gives what is hard (every way to log in that kubectl knows), and
not its models, whose import alone takes longer than a whole command.
"""
