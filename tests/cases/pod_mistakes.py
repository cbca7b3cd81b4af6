"""Mistakes in what a user asks for of pods and storage; part of the table in cases.mistakes."""

from builders.documents import PODS, MistakeCase, in_job, in_pods

POD_MISTAKES = [
    MistakeCase(
        "a claim of nothing",
        in_job("spec.storage", {"create": {"size": "0Gi"}}),
        "spec.storage.create",
        "size must be more than 0",
    ),
    MistakeCase(
        "storage of two kinds",
        in_job("spec.storage", {"claimName": "shared", "create": {"size": "1Gi"}}),
        "spec.storage",
        "exactly one of claimName (a claim that is there) and create (one to be made) must be set",
    ),
    MistakeCase(
        "storage of no kind",
        in_job("spec.storage", {}),
        "spec.storage",
        "exactly one of claimName (a claim that is there) and create (one to be made) must be set",
    ),
    MistakeCase(
        "a claim of less than nothing",
        in_job("spec.storage", {"create": {"size": -1}}),
        "spec.storage.create",
        "quantities must be at least 0",
    ),
    MistakeCase(
        "a claim for one node to read",
        in_job("spec.storage", {"create": {"size": "1Gi", "accessMode": "ReadOnlyMany"}}),
        "spec.storage.create.accessMode",
        'Unsupported value: "ReadOnlyMany": supported values: "ReadWriteMany", "ReadWriteOnce"',
    ),
    MistakeCase(
        "no time to start",
        in_job("spec.restarts", {"startTimeoutSeconds": 0}),
        "spec.restarts.startTimeoutSeconds",
        "spec.restarts.startTimeoutSeconds in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "no patience before a deletion by force",
        in_job("spec.restarts", {"forceDeleteAfterSeconds": 0}),
        "spec.restarts.forceDeleteAfterSeconds",
        "spec.restarts.forceDeleteAfterSeconds in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "no time to end",
        in_pods(terminationGracePeriodSeconds=0),
        f"{PODS}.terminationGracePeriodSeconds",
        "spec.pods.terminationGracePeriodSeconds in body should be greater than or equal to 1",
    ),
    *(
        MistakeCase(
            f"a user's own {name}",
            in_pods(env=[{"name": name, "value": "0"}]),
            f"{PODS}.env[0]",
            "name must not be a variable that costopt sets itself (COSTOPT_*, PET_*, TORCHELASTIC_*,",
        )
        for name in ("RANK", "MASTER_ADDR", "COSTOPT_ATTEMPT", "PET_NNODES", "TORCHELASTIC_RUN_ID")
    ),
    MistakeCase(
        "a variable with a dash",
        in_pods(env=[{"name": "NCCL-DEBUG", "value": "INFO"}]),
        f"{PODS}.env[0].name",
        "spec.pods.env[0].name in body should match '^[A-Za-z_][A-Za-z0-9_]*$'",
        "it must be letters, digits and '_'",
    ),
    MistakeCase(
        "a variable without a value",
        in_pods(env=[{"name": "NCCL_DEBUG"}]),
        f"{PODS}.env[0]",
        "exactly one of value and valueFrom must be set",
    ),
    MistakeCase(
        "a variable from nowhere",
        in_pods(env=[{"name": "TOKEN", "valueFrom": {}}]),
        f"{PODS}.env[0].valueFrom",
        "exactly one of secretKeyRef and configMapKeyRef must be set",
    ),
    MistakeCase(
        "a variable given twice",
        in_pods(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        f"{PODS}.env[1]",
        'Duplicate value: {"name":"A"}',
        "env must not hold two items of the same name",
    ),
    *(
        MistakeCase(
            f"a {kind} of costopt's own: {key}",
            in_pods(**{kind: {key: "x"}}),
            PODS,
            f"{kind} must not name what costopt or the Job controller sets itself (costopt.dev/*,",
        )
        for kind, key in (
            ("labels", "costopt.dev/job"),
            ("labels", "app.kubernetes.io/managed-by"),
            ("labels", "batch.kubernetes.io/controller-uid"),
            ("labels", "job-name"),
            ("annotations", "batch.kubernetes.io/job-completion-index"),
        )
    ),
    *(
        MistakeCase(
            f"{kind} with a key that is none",
            in_pods(**{kind: {"-team": "a"}}),
            PODS,
            f"{kind} must have label keys as its keys",
        )
        for kind in ("labels", "annotations", "nodeSelector")
    ),
    MistakeCase(
        "a label's value with a space",
        in_pods(labels={"team": "a b"}),
        f"{PODS}.labels.team",
        "spec.pods.labels.team in body should match",
        "it must be at most 63 letters, digits, '-', '_' and '.'",
    ),
    MistakeCase(
        "more labels than a pod may have",
        in_pods(labels={f"l{index}": "" for index in range(33)}),
        f"{PODS}.labels",
        "Too many: 33: must have at most 32 items",
    ),
    MistakeCase(
        "a folder of the node as a volume",
        in_pods(volumes=[{"name": "node", "emptyDir": {}, "hostPath": {"path": "/"}}]),
        f"{PODS}.volumes[0].hostPath",
        'unknown field "spec.pods.volumes[0].hostPath"',
        "the fields of Volume are configMap, csi, downwardAPI,",
    ),
    *(
        MistakeCase(
            f"a projected {kind}",
            in_pods(volumes=[{"name": "token", "projected": {"sources": [{"secret": {"name": "s"}, kind: {}}]}}]),
            f"{PODS}.volumes[0].projected.sources[0].{kind}",
            f'unknown field "spec.pods.volumes[0].projected.sources[0].{kind}"',
            "the fields of ProjectedSource are clusterTrustBundle, configMap,",
        )
        for kind in ("serviceAccountToken", "podCertificate")
    ),
    MistakeCase(
        "a projected source of nothing, which is what is left of a token where unknown fields are dropped",
        in_pods(volumes=[{"name": "token", "projected": {"sources": [{}]}}]),
        f"{PODS}.volumes[0].projected.sources[0]",
        "exactly one of clusterTrustBundle, configMap, downwardAPI, secret must be set; tokens of service",
    ),
    MistakeCase(
        "a volume without a source",
        in_pods(volumes=[{"name": "data"}]),
        f"{PODS}.volumes[0]",
        "exactly one of configMap, csi, downwardAPI, emptyDir,",
    ),
    MistakeCase(
        "a volume of two sources",
        in_pods(volumes=[{"name": "data", "emptyDir": {}, "secret": {"secretName": "s"}}]),
        f"{PODS}.volumes[0]",
        "exactly one of configMap, csi, downwardAPI, emptyDir,",
    ),
    MistakeCase(
        "a volume of costopt's own",
        in_pods(volumes=[{"name": "storage", "emptyDir": {}}]),
        f"{PODS}.volumes[0]",
        "name must not be that of a volume of costopt's own (settings, storage, tmp, shm)",
    ),
    MistakeCase(
        "a mount of no volume",
        in_pods(volumeMounts=[{"name": "settings", "mountPath": "/data"}]),
        PODS,
        "volumeMounts must name volumes of spec.pods.volumes",
    ),
    *(
        MistakeCase(
            f"a mount at {path}",
            in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": path}]),
            f"{PODS}.volumeMounts[0]",
            "mountPath must not be, lie below or hold a folder that is costopt's or the node's own (/etc/costopt,",
        )
        for path in ("/storage", "/etc/costopt/int8.json", "/etc", "/tmp/cache", "/dev/shm", "/dev", "/proc/1")
    ),
    *(
        MistakeCase(
            f"a mount by the crooked path {path}",
            in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": path}]),
            f"{PODS}.volumeMounts[0].mountPath",
            "spec.pods.volumeMounts[0].mountPath in body should match",
            "it must be an absolute path without",
        )
        for path in ("/data/../storage", "//storage", "/./tmp", "/data/", "data", "/a:b")
    ),
    MistakeCase(
        "a path out of its volume",
        in_pods(
            volumes=[{"name": "data", "emptyDir": {}}],
            volumeMounts=[{"name": "data", "mountPath": "/data", "subPath": "../.."}],
        ),
        f"{PODS}.volumeMounts[0].subPath",
        "spec.pods.volumeMounts[0].subPath in body should match",
        "it must be a relative path without",
    ),
    MistakeCase(
        "two volumes in one place",
        in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": "/data"}] * 2),
        f"{PODS}.volumeMounts[1]",
        'Duplicate value: {"mountPath":"/data"}',
    ),
    MistakeCase(
        "a toleration of any value that names one",
        in_pods(tolerations=[{"key": "spot", "operator": "Exists", "value": "true"}]),
        f"{PODS}.tolerations[0]",
        "operator Exists takes no value, and operator Equal needs a key",
    ),
    MistakeCase(
        "a toleration of no taint",
        in_pods(tolerations=[{"value": "true"}]),
        f"{PODS}.tolerations[0]",
        "operator Exists takes no value, and operator Equal needs a key",
    ),
    MistakeCase(
        "a toleration for a while of what lasts",
        in_pods(tolerations=[{"key": "spot", "operator": "Exists", "tolerationSeconds": 30}]),
        f"{PODS}.tolerations[0]",
        "tolerationSeconds needs effect NoExecute",
    ),
    MistakeCase(
        "a class with a capital letter",
        in_pods(priorityClassName="High"),
        f"{PODS}.priorityClassName",
        "spec.pods.priorityClassName in body should match",
        "it must be DNS labels",
    ),
    MistakeCase(
        "an environment that no list of pods could bear",
        in_pods(env=[{"name": f"V{number}", "value": "x" * 4096} for number in range(16)]),
        PODS,
        "env must be at most 65,536 characters in all, names and values; put more into a file of a ConfigMap (volumes)",
    ),
    MistakeCase(
        "annotations that no list of pods could bear",
        in_pods(annotations={f"example.com/a{number}": "x" * 4090 for number in range(4)}),
        PODS,
        "annotations must be at most 16,384 characters in all, keys and values",
    ),
]
