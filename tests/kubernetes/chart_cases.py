"""Values that the chart takes, and values that it refuses with a sentence."""

ETCD = ["coordinator.replicas=3", "etcd.enabled=true", "etcd.image.repository=etcd", "etcd.image.tag=v3.5.16"]
EXTERNAL = ["coordinator.replicas=3", "etcd.endpoints={e0:2379,e1:2379,e2:2379}"]
SECRETS = ["tls.source=secrets"] + [f"tls.secrets.{who}=my-{who}" for who in
                                    ("coordinator", "memory", "worker", "operator", "metrics", "etcd", "etcdClient")]
WORKERS = ["modelWorkers.enabled=true"]
MONITORING = ["monitoring.annotations=true", "monitoring.serviceMonitor.enabled=true",
              "monitoring.rules.enabled=true", "monitoring.dashboard.enabled=true"]
COPY = ["model.source=copy", "model.copy.image=fetch:1", "model.copy.sizeLimit=250Gi", "model.copy.command={/fetch}"]

# name: (profile or None, values)
GOOD = {
    "default": (None, []),
    "three coordinators, etcd of the chart": (None, ETCD),
    "three coordinators, etcd of the chart, no TLS": (None, ETCD + ["tls.enabled=false", "etcd.tls=false"]),
    "three coordinators, an etcd of yours": (None, EXTERNAL + ["etcd.clientSecret=etcd-client"]),
    "three coordinators, an etcd of yours, no TLS": (None, EXTERNAL + ["etcd.tls=false", "tls.enabled=false"]),
    "no TLS": (None, ["tls.enabled=false"]),
    "cert-manager": (None, ETCD + ["tls.source=certManager", "tls.certManager.issuerRef.name=ca",
                                   "tls.certManager.etcdIssuerRef.name=etcd-ca"]),
    "secrets of yours": (None, ETCD + SECRETS + MONITORING),
    "zones": (None, ["memoryNodes.zones={a,b,c}", "memoryNodes.replicas=7", "memoryNodes.nodeSelector.pool=memory"]),
    "workers": (None, WORKERS + ["modelWorkers.autoscaling.enabled=true", "modelWorkers.autoscaling.maxReplicas=8"]),
    "workers on CPUs": (None, WORKERS + ["modelWorkers.backend=cpu", "modelWorkers.zone=a"]),
    "everything monitored": (None, WORKERS + MONITORING),
    "benchmark": (None, ["bench.enabled=true", "bench.claimName=reports"]),
    "model on the hosts": (None, ["model.source=hostPath", "model.hostPath.path=/srv/model"] + WORKERS),
    "model copied": (None, COPY + WORKERS),
    "one replica": (None, ["model.replicas=1", "memoryNodes.replicas=1"]),
    "nothing optional": (None, ["networkPolicy.enabled=false", "podDisruptionBudget.enabled=false",
                                "operator.enabled=false", "model.createVersion=false",
                                "memoryNodes.scaleIn.enabled=false"]),
    "policies with peers": (None, ["networkPolicy.metrics[0].namespaceSelector.matchLabels.name=monitoring",
                                   "networkPolicy.readers[0].podSelector.matchLabels.app=engine"] + WORKERS),
    "table that just fits": (None, ["model.tableBytes=189Gi", "memoryNodes.replicas=5", "memoryNodes.memory=80Gi"]),
}
for profile in ("tcp", "rdma-shared", "rdma-sriov", "same-host"):
    GOOD[f"profile {profile}"] = (profile, WORKERS + ["bench.enabled=true"])
# Those whose pods meet the restricted Pod Security level: all but hostPath and what shares more with the host.
RESTRICTED = [name for name in GOOD if name not in ("model on the hosts", "profile rdma-shared",
                                                    "profile rdma-sriov", "profile same-host")]

# (values, what the refusal says)
BAD = [
    # keys and units: the schema
    (["memoryNodes.replica=3"], "replica"),
    (["bogus=1"], "bogus"),
    (["memoryNodes.memory=96G"], "memoryNodes/memory"),
    (["memoryNodes.memory=96"], "memoryNodes/memory"),
    (["memoryNodes.memory=-1Gi"], "memoryNodes/memory"),
    (["memoryNodes.scrubRate=fast"], "memoryNodes/scrubRate"),
    (["memoryNodes.loadRateMin=0Mi"], "memoryNodes/loadRateMin"),
    (["memoryNodes.replicas=0"], "memoryNodes/replicas"),
    (["memoryNodes.cpu=2 cores"], "memoryNodes/cpu"),
    (["memoryNodes.hugePages.size=4Mi"], "memoryNodes/hugePages/size"),
    (["memoryNodes.zones={A_B}"], "memoryNodes/zones/0"),
    (["memoryNodes.zones={a,a}"], "memoryNodes/zones"),
    (["memoryNodes.extraArgs={rm}"], "memoryNodes/extraArgs/0"),
    (["coordinator.replicas=2"], "coordinator/replicas"),
    (["coordinator.lostAfterSeconds=5m"], "coordinator/lostAfterSeconds"),
    (["model.replicas=4"], "model/replicas"),
    (["model.source=s3"], "model/source"),
    (["model.path=models"], "model/path"),
    (["model.tableBytes=189GB"], "model/tableBytes"),
    (["transport.mode=rdma"], "transport/mode"),
    (["transport.env.LD_PRELOAD=x"], "'LD_PRELOAD' does not match pattern"),
    (["transport.deviceResources.hca=1"], "'hca' does not match pattern"),
    (["tls.source=vault"], "tls/source"),
    (["tls.certificateDays=0"], "tls/certificateDays"),
    (["image.digest=latest"], "image/digest"),
    (["etcd.endpoints={https://e0:2379}"], "etcd/endpoints/0"),
    (["modelWorkers.concurrency=1000"], "modelWorkers/concurrency"),
    (["modelWorkers.backend=rocm"], "modelWorkers/backend"),
    (["fullnameOverride=Pool"], "fullnameOverride"),
    (["fullnameOverride=a-name-that-is-longer-than-36-characters"], "fullnameOverride"),
    # what does not go together: the templates, with what to set
    (["coordinator.replicas=3"], "set etcd.enabled=true, or etcd.endpoints"),
    (["etcd.enabled=true"], "set coordinator.replicas=3, or leave etcd.enabled"),
    (["etcd.endpoints={e0:2379}"], "set coordinator.replicas=3, or leave etcd.enabled"),
    (ETCD + ["etcd.endpoints={e0:2379}"], "leave one of them out"),
    (["coordinator.replicas=3", "etcd.enabled=true"], "set etcd.image.repository and etcd.image.tag"),
    (["coordinator.replicas=3", "etcd.enabled=true", "etcd.image.repository=etcd"], "set etcd.image.tag"),
    (ETCD + ["etcd.clientSecret=x"], "leave etcd.clientSecret out"),
    (EXTERNAL + ["etcd.tls=false", "etcd.clientSecret=x"], "set etcd.tls=true"),
    (EXTERNAL, "set etcd.clientSecret"),
    (EXTERNAL + ["tls.enabled=false"], "set etcd.tls=false, or tls.enabled=true"),
    (ETCD + ["tls.enabled=false"], "set etcd.tls=false, or tls.enabled=true"),
    (ETCD + ["etcd.tls=false"], "set etcd.tls=true, or tls.enabled=false"),
    (ETCD + ["tls.source=certManager", "tls.certManager.issuerRef.name=ca"], "set tls.certManager.etcdIssuerRef.name"),
    (ETCD + SECRETS + ["tls.secrets.etcdClient="], "set tls.secrets.etcdClient"),
    (["model.pvc.claimName="], "set model.pvc.claimName"),
    (["model.source=hostPath"], "set model.hostPath.path"),
    (["model.source=copy"], "set model.copy.image"),
    (["model.source=copy", "model.copy.image=x"], "model.copy.sizeLimit"),
    (["model.replicas=3", "memoryNodes.replicas=2"], "set memoryNodes.replicas to 3 or more"),
    (["model.tableBytes=189Gi", "memoryNodes.memory=64Gi"], "set memoryNodes.replicas to 7 or more"),
    (["memoryNodes.zones={a,b,c,d}"], "set memoryNodes.replicas to 4 or more"),
    (["fullnameOverride=engram-pool-of-some-longer-name", "memoryNodes.zones={eu-central-1-abcdefghij}"],
     "set fullnameOverride to something shorter"),
    (["transport.oneSided=rdma"], "set transport.mode=auto"),
    (["transport.mode=auto", "transport.oneSided=rdma"], "set transport.deviceResources"),
    (["transport.mode=auto", "transport.oneSided=rdma", "transport.deviceResources.rdma/hca=1"],
     "set transport.ipcLock=true"),
    (["transport.hostIPC=true"], "set transport.mode=auto"),
    (["transport.mode=shm"], "set transport.hostIPC=true"),
    (["memoryNodes.hugePages.size=2Mi"], "leave memoryNodes.hugePages.size out"),
    (["transport.leaseMs=60000"], "set memoryNodes.terminationGracePeriodSeconds to 62 or more"),
    (["tls.source=certManager"], "set tls.certManager.issuerRef.name"),
    (["tls.source=secrets"], "set tls.secrets.coordinator"),
    (SECRETS + ["tls.secrets.metrics=", "monitoring.serviceMonitor.enabled=true"], "set tls.secrets.metrics"),
    (ETCD + SECRETS + ["tls.secrets.etcd="], "set tls.secrets.etcd"),
    (["tls.certificateDays=20"], "set tls.job.renewWithinDays to 10 or less"),
    (["modelWorkers.leaderWorkerSet=true"], "set modelWorkers.leaderWorkerSet=false"),
    (["modelWorkers.autoscaling.enabled=true"], "set modelWorkers.enabled=true"),
    (WORKERS + ["modelWorkers.autoscaling.enabled=true", "modelWorkers.autoscaling.minReplicas=9"],
     "set modelWorkers.autoscaling.maxReplicas to 9 or more"),
]
