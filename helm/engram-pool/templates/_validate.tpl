{{/* What the schema cannot say. Every sentence ends with what to set. */}}
{{- define "engram.validate" -}}
{{- $v := .Values -}}
{{- $c := int $v.coordinator.replicas -}}
{{- $nodes := int $v.memoryNodes.replicas -}}
{{- $external := not (empty $v.etcd.endpoints) -}}

{{- if and (gt $c 1) (not $v.etcd.enabled) (not $external) -}}
{{- fail (printf "coordinator.replicas is %d, and several coordinators keep their state in etcd: set etcd.enabled=true, or etcd.endpoints to those of yours" $c) -}}
{{- end -}}
{{- if and (eq $c 1) (or $v.etcd.enabled $external) -}}
{{- fail "there is an etcd but one coordinator, which keeps its state in SQLite: set coordinator.replicas=3, or leave etcd.enabled and etcd.endpoints out" -}}
{{- end -}}
{{- if and $v.etcd.enabled $external -}}
{{- fail "etcd.enabled runs an etcd and etcd.endpoints names another: leave one of them out" -}}
{{- end -}}
{{- if and $v.etcd.enabled (empty $v.etcd.image.repository) -}}
{{- fail "etcd.enabled needs an image: set etcd.image.repository and etcd.image.tag (etcd 3.4 or later)" -}}
{{- end -}}
{{- if and $v.etcd.enabled $v.etcd.image.repository (empty $v.etcd.image.tag) (empty $v.etcd.image.digest) -}}
{{- fail "etcd.image has no tag: set etcd.image.tag or etcd.image.digest" -}}
{{- end -}}
{{- if and $v.etcd.snapshots.claimName (not $v.etcd.enabled) -}}
{{- fail "etcd.snapshots are of the etcd that etcd.enabled runs: set etcd.enabled=true, or leave etcd.snapshots.claimName out and take snapshots of yours where it runs" -}}
{{- end -}}
{{- if and $v.etcd.snapshots.restore (empty $v.etcd.snapshots.claimName) -}}
{{- fail "etcd.snapshots.restore is a file of a claim: set etcd.snapshots.claimName" -}}
{{- end -}}
{{- if and $v.etcd.snapshots.restore (eq $v.etcd.initialClusterState "existing") -}}
{{- fail "members that start from a snapshot make a new cluster: set etcd.initialClusterState=new, or leave etcd.snapshots.restore out" -}}
{{- end -}}
{{- if and $v.etcd.snapshots.restore (empty $v.coordinator.restored) -}}
{{- fail "a snapshot that is put back gives terms, versions and epochs again that were given since: set coordinator.restored to a name for this restore, such as the day" -}}
{{- end -}}
{{- if and $v.etcd.clientSecret (not $v.etcd.tls) -}}
{{- fail "etcd.clientSecret is for TLS to etcd, which is off: set etcd.tls=true" -}}
{{- end -}}
{{- if and $v.etcd.clientSecret $v.etcd.enabled -}}
{{- fail "etcd.clientSecret is for an etcd of yours; the chart's own has certificates of its own: leave etcd.clientSecret out" -}}
{{- end -}}
{{- if and (gt $c 1) (ne $v.etcd.tls $v.tls.enabled) -}}
{{- fail (printf "tls.enabled is %t and etcd.tls %t: coordinators with certificates take no etcd without, so set etcd.tls=%t, or tls.enabled=%t" $v.tls.enabled $v.etcd.tls $v.tls.enabled $v.etcd.tls) -}}
{{- end -}}
{{- if and $external (gt $c 1) $v.etcd.tls (empty $v.etcd.clientSecret) -}}
{{- fail "etcd.endpoints are under TLS: set etcd.clientSecret to a Secret with ca.crt (who signed etcd's certificates), tls.crt and tls.key (what coordinators show to it)" -}}
{{- end -}}
{{- if and $v.etcd.enabled $v.etcd.tls $v.tls.enabled (eq $v.tls.source "certManager") (empty $v.tls.certManager.etcdIssuerRef.name) -}}
{{- fail "etcd needs a CA of its own, or whoever has a certificate of the cluster could change its state: set tls.certManager.etcdIssuerRef.name" -}}
{{- end -}}

{{- if and (eq $v.model.source "pvc") (empty $v.model.pvc.claimName) -}}
{{- fail "model.source is pvc: set model.pvc.claimName to a claim that every pod may mount (ReadOnlyMany or ReadWriteMany)" -}}
{{- end -}}
{{- if and (eq $v.model.source "hostPath") (empty $v.model.hostPath.path) -}}
{{- fail "model.source is hostPath: set model.hostPath.path to the checkpoint's folder on the hosts" -}}
{{- end -}}
{{- if and (eq $v.model.source "copy") (or (empty $v.model.copy.image) (empty $v.model.copy.sizeLimit)) -}}
{{- fail "model.source is copy: set model.copy.image (and command, args) to what fills model.path, and model.copy.sizeLimit to the checkpoint's size, such as 250Gi" -}}
{{- end -}}
{{- if eq $v.model.source "copy" -}}
{{- $copy := add1 (div (include "engram.bytes" $v.model.copy.sizeLimit | int64) (include "engram.bytes" $v.model.copy.rateMin | int64)) -}}
{{- if gt (add $copy 60) (int64 $v.coordinator.lostAfterSeconds) -}}
{{- fail (printf "model.source is copy: a pod that restarts copies %s at %s a second first, %d s, and its slots are placed anew after %d: set coordinator.lostAfterSeconds to %d or more, or model.copy.rateMin to what it really is" $v.model.copy.sizeLimit $v.model.copy.rateMin $copy (int $v.coordinator.lostAfterSeconds) (add $copy 60)) -}}
{{- end -}}
{{- if gt (add $copy 60) (int64 $v.model.registerTimeoutSeconds) -}}
{{- fail (printf "model.source is copy: memory nodes register when they have copied %s, after %d s: set model.registerTimeoutSeconds to %d or more" $v.model.copy.sizeLimit $copy (add $copy 60)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.model.mountPath (not (hasPrefix (printf "%s/" $v.model.mountPath) (printf "%s/" $v.model.path))) -}}
{{- fail (printf "model.path %s is not in the volume at model.mountPath %s: set model.path to a folder under model.mountPath" $v.model.path $v.model.mountPath) -}}
{{- end -}}
{{- if gt (int $v.model.replicas) $nodes -}}
{{- fail (printf "model.replicas is %d and memoryNodes.replicas %d: replicas of a slot are on different nodes, so set memoryNodes.replicas to %d or more" (int $v.model.replicas) $nodes (int $v.model.replicas)) -}}
{{- end -}}
{{- $each := include "engram.bytes" $v.memoryNodes.memory | int64 -}}
{{- if $v.model.tableBytes -}}
{{- /* A stored row is its bytes and a CRC: 268 for 264. */ -}}
{{- $need := mulf (include "engram.bytes" $v.model.tableBytes | float64) $v.model.replicas 1.016 | int64 -}}
{{- $have := mul $each $nodes -}}
{{- if gt $need $have -}}
{{- fail (printf "%d replicas of %s need %d MiB of rows, %d memory nodes with %s hold %d MiB: set memoryNodes.replicas to %d or more, or raise memoryNodes.memory" (int $v.model.replicas) $v.model.tableBytes (div $need 1048576) $nodes $v.memoryNodes.memory (div $have 1048576) (add1 (div (sub $need 1) $each))) -}}
{{- end -}}
{{- end -}}
{{- if gt (len $v.memoryNodes.zones) $nodes -}}
{{- fail (printf "memoryNodes.zones names %d zones for %d memory nodes: set memoryNodes.replicas to %d or more, or name fewer" (len $v.memoryNodes.zones) $nodes (len $v.memoryNodes.zones)) -}}
{{- end -}}
{{- $base := include "engram.memoryBase" . -}}
{{- range $zone := $v.memoryNodes.zones -}}
{{- if gt (len (printf "%s-%s-00" $base $zone)) 63 -}}
{{- fail (printf "a pod's name of zone %s would be longer than a certificate allows (64): set fullnameOverride to something shorter than %d characters" $zone (sub 54 (len $zone))) -}}
{{- end -}}
{{- end -}}

{{- if and (eq $v.memoryNodes.hostSpread "required") (not $v.memoryNodes.topologySpread) -}}
{{- fail "memoryNodes.hostSpread=required keeps memory nodes on hosts of their own and memoryNodes.topologySpread is off: set memoryNodes.topologySpread=true, or leave memoryNodes.hostSpread out" -}}
{{- end -}}
{{- if and (eq $v.memoryNodes.hostSpread "preferred") $v.transport.hostNetwork -}}
{{- fail "memory nodes on hosts' networks take the same ports, so a host has one: leave memoryNodes.hostSpread out, or set transport.hostNetwork=false" -}}
{{- end -}}

{{- $t := $v.transport -}}
{{- if and $t.hostNetwork $v.networkPolicy.enabled -}}
{{- $blocks := list -}}
{{- range $v.networkPolicy.readers -}}{{- if hasKey . "ipBlock" -}}{{- $blocks = append $blocks .ipBlock -}}{{- end -}}{{- end -}}
{{- if empty $blocks -}}
{{- fail "pods on host networks come from hosts' addresses, which no podSelector matches: set networkPolicy.readers to [{ipBlock: {cidr: THE HOSTS' NETWORK}}], or networkPolicy.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $t.mode "tcp") (ne $t.oneSided "off") -}}
{{- fail "transport.oneSided=rdma needs RDMA and transport.mode is tcp: set transport.mode=auto (profiles/rdma-shared.yaml), or transport.oneSided=off" -}}
{{- end -}}
{{- if and (eq $t.oneSided "rdma") (empty $t.deviceResources) -}}
{{- fail "transport.oneSided=rdma needs an RDMA device in the pods: set transport.deviceResources (profiles/rdma-shared.yaml, profiles/rdma-sriov.yaml)" -}}
{{- end -}}
{{- if and (eq $t.oneSided "rdma") (not $t.ipcLock) -}}
{{- fail "transport.oneSided=rdma locks the rows' memory: set transport.ipcLock=true" -}}
{{- end -}}
{{- if and $t.hostIPC (eq $t.mode "tcp") -}}
{{- fail "transport.hostIPC is for mapped reads, which transport.mode=tcp turns off: set transport.mode=auto (profiles/same-host.yaml), or transport.hostIPC=false" -}}
{{- end -}}
{{- if and (eq $t.mode "shm") (not $t.hostIPC) -}}
{{- fail "transport.mode=shm shares memory between pods: set transport.hostIPC=true (profiles/same-host.yaml), or transport.mode=tcp" -}}
{{- end -}}
{{- if and $v.memoryNodes.hugePages.size (eq $t.mode "tcp") -}}
{{- fail "memoryNodes.hugePages is for memory that UCX shares or registers, and transport.mode is tcp, which takes transparent huge pages by itself: leave memoryNodes.hugePages.size out, or set transport.mode=auto" -}}
{{- end -}}
{{- if gt (add (int $t.leaseMs) 1000) (mul (int $v.memoryNodes.terminationGracePeriodSeconds) 1000) -}}
{{- fail (printf "a memory node must outlive its leases of %d ms: set memoryNodes.terminationGracePeriodSeconds to %d or more" (int $t.leaseMs) (add 2 (div (int $t.leaseMs) 1000))) -}}
{{- end -}}

{{- if and $v.tls.enabled (eq $v.tls.source "certManager") (empty $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.source is certManager: set tls.certManager.issuerRef.name to an Issuer with a CA of its own" -}}
{{- end -}}
{{- if and $v.tls.enabled (eq $v.tls.source "secrets") -}}
{{- $need := list "coordinator" "memory" "worker" "operator" -}}
{{- if and $v.etcd.enabled $v.etcd.tls -}}{{- $need = concat $need (list "etcd" "etcdClient") -}}{{- end -}}
{{- if $v.monitoring.serviceMonitor.enabled -}}{{- $need = append $need "metrics" -}}{{- end -}}
{{- range $who := $need -}}
{{- if empty (get $v.tls.secrets $who) -}}
{{- fail (printf "tls.source is secrets: set tls.secrets.%s to a Secret with ca.crt, tls.crt and tls.key (engramctl certs makes them)" $who) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.enabled (eq $v.tls.source "job") (ge (int $v.tls.job.renewWithinDays) (int $v.tls.certificateDays)) -}}
{{- fail (printf "tls.job.renewWithinDays is %d and tls.certificateDays %d, so certificates would be made anew every day: set tls.job.renewWithinDays to %d or less" (int $v.tls.job.renewWithinDays) (int $v.tls.certificateDays) (div (int $v.tls.certificateDays) 2)) -}}
{{- end -}}

{{- $ending := add (int $v.modelWorkers.drainSeconds) (int $v.modelWorkers.finishSeconds) 5 -}}
{{- if gt $ending (int $v.modelWorkers.terminationGracePeriodSeconds) -}}
{{- fail (printf "a worker is killed before its last requests end: set modelWorkers.terminationGracePeriodSeconds to %d or more, or lower modelWorkers.drainSeconds or modelWorkers.finishSeconds" $ending) -}}
{{- end -}}
{{- if has (int $v.modelWorkers.port) (list 2222 7100 7101) -}}
{{- fail (printf "modelWorkers.port %d is ssh's (ranks) or a memory node's, which may be on the same host: set modelWorkers.port to another, such as 8080" (int $v.modelWorkers.port)) -}}
{{- end -}}
{{- $l := $v.modelWorkers.leaderWorkerSet -}}
{{- if and $l.enabled (not $v.modelWorkers.enabled) -}}
{{- fail "modelWorkers.leaderWorkerSet is on and there are no workers: set modelWorkers.enabled=true" -}}
{{- end -}}
{{- $ranks := int (include "engram.ranks" .) -}}
{{- if not (has $ranks (list 1 2 4 8)) -}}
{{- fail (printf "leaderWorkerSet.size x tensorParallel is %d ranks, and a model is shared by 2, 4 or 8: set modelWorkers.leaderWorkerSet.size or modelWorkers.tensorParallel to a smaller power of two" $ranks) -}}
{{- end -}}
{{- if and $l.enabled (empty $l.sshSecret) (or (not $v.tls.enabled) (ne $v.tls.source "job")) -}}
{{- fail "modelWorkers.leaderWorkerSet starts ranks by ssh, whose key the certificates' Job makes (tls.source=job): set modelWorkers.leaderWorkerSet.sshSecret to a Secret of yours with ssh-privatekey, authorized_keys and known_hosts (docs/OPERATIONS.md)" -}}
{{- end -}}
{{- $memory := dig "limits" "memory" "" $v.modelWorkers.resources | toString -}}
{{- if and $v.modelWorkers.enabled (gt $ranks 1) (regexMatch "^[0-9.]+[KMGT]i$" $memory) -}}
{{- if ge (include "engram.bytes" $v.modelWorkers.sharedMemory | int64) (include "engram.bytes" $memory | int64) -}}
{{- fail (printf "modelWorkers.sharedMemory is part of the pod's memory, whose limit is %s: set modelWorkers.sharedMemory lower, or raise modelWorkers.resources.limits.memory" $memory) -}}
{{- end -}}
{{- end -}}
{{- if and $v.modelWorkers.enabled $v.modelWorkers.autoscaling.enabled (gt (int $v.modelWorkers.autoscaling.minReplicas) (int $v.modelWorkers.autoscaling.maxReplicas)) -}}
{{- fail (printf "modelWorkers.autoscaling.minReplicas is above maxReplicas: set modelWorkers.autoscaling.maxReplicas to %d or more" (int $v.modelWorkers.autoscaling.minReplicas)) -}}
{{- end -}}
{{- if and $v.modelWorkers.autoscaling.enabled (not $v.modelWorkers.enabled) -}}
{{- fail "modelWorkers.autoscaling is on and there are no workers: set modelWorkers.enabled=true" -}}
{{- end -}}
{{- end -}}
