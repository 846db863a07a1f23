"""Model workers whose model several ranks share, on the one-machine cluster: in one pod, and across pods."""
import time

import leader_worker_sets
from cluster_steps import Caller


def in_a_pod(run):
    """Two ranks in each of two pods answer as one rank does; a pod that ends while requests come ends none of them."""
    release = run.release
    with run.step("model workers of two ranks each (mpirun in a pod)") as notes:
        # Memory for two: each rank has its own cache, and what is not divided of the model.
        release.upgrade(values={"modelWorkers.replicas": 2, "modelWorkers.tensorParallel": 2, "modelWorkers.sharedMemory": "64Mi",
                                "modelWorkers.resources.limits.memory": "2Gi"})
        release.await_true(lambda: "" if len(release.pods("model-worker")) == 2 else "pods come or go")
        run.require(run.workers(2) == run.answers, "two ranks answer differently than one")
        for pod in release.pods("model-worker"):
            read = release.metrics(pod, 8080)['engram_worker_rank_rows_read_total{rank="1"}']
            run.require(read > 0, "the second rank read no row")
        notes.append("2 pods answer as before")
        with Caller(release) as caller:
            time.sleep(2)
            release.upgrade(values={"modelWorkers.replicas": 1})
            release.await_true(lambda: "" if _count(release, "model-worker") == 1 else "a pod is ending")
            time.sleep(2)
        notes.append(f"2 -> 1: {caller.done} requests through the service meanwhile, {len(caller.errors)} not answered")
        run.require(caller.done > 0 and caller.texts == {run.answers} and not caller.errors, f"{caller.texts}, {caller.errors[:3]}")
        release.upgrade(values={"modelWorkers.tensorParallel": 1})
        run.require(run.workers(1) == run.answers, "workers answer differently than before")


def across_pods(run, machine, controller):
    """A rank in each of two pods, which a LeaderWorkerSet makes; one of them is lost; then single pods again."""
    release = run.release
    name = f"{release.full}-ranks"

    def whole():
        groups = release.get("leaderworkerset", name).get("status", {})
        pods = _count(release, "model-worker"), _count(release, "model-worker-ranks")
        return "" if groups.get("readyReplicas") == 1 and pods == (1, 1) else f"groups {groups}, leaders and others {pods}"

    def answer():
        leader, follower = release.pods("model-worker")[0], release.pods("model-worker-ranks")[0]
        text = release.completion(leader["status"]["podIP"])
        run.require(text == run.answers, f"two pods answer {text}, one rank {run.answers}")
        read = release.metrics(leader, 8080)['engram_worker_rank_rows_read_total{rank="1"}']
        run.require(read > 0, "the second rank read no row")
        service = release.get("endpoints", f"{release.full}-model-worker")
        behind = [address["ip"] for subset in service["subsets"] for address in subset["addresses"]]
        run.require(behind == [leader["status"]["podIP"]], f"behind the service: {behind}")
        return leader["metadata"]["uid"], follower["metadata"]["uid"]

    with run.step("a LeaderWorkerSet of two pods with a rank each (ssh)") as notes:
        leader_worker_sets.start(machine, controller)
        began = time.monotonic()
        release.upgrade(values={"modelWorkers.leaderWorkerSet.enabled": "true", "modelWorkers.leaderWorkerSet.size": 2})
        release.await_true(whole)
        before = answer()
        notes.append(f"ready {time.monotonic() - began:.0f} s after helm upgrade; they answer as one rank does")
    with run.step("a follower's pod is deleted: the group starts anew") as notes:
        began = time.monotonic()
        release.kubectl("delete", "pod", f"{name}-0-1", "--wait=false")
        release.await_true(lambda: "" if _uids(release).isdisjoint(before) else "pods of before are there")
        release.await_true(whole)
        run.require(set(answer()).isdisjoint(before), "a pod of before went on")
        notes.append(f"ready after {time.monotonic() - began:.0f} s; they answer as before")
    with run.step("single pods again"):
        release.upgrade(values={"modelWorkers.leaderWorkerSet.enabled": "false"})
        run.require(run.workers(1) == run.answers, "workers answer differently than before")
        release.await_true(lambda: "" if _count(release, "model-worker-ranks") == 0 else "pods of the group are there")


def _count(release, component):
    """Those that are ending too."""
    return len(release.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"])


def _uids(release):
    return {pod["metadata"]["uid"] for component in ("model-worker", "model-worker-ranks")
            for pod in release.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"]}
