"""What tests/chaos does to its cluster. Each returns once it is undone, and says what it did; the
caller waits until every replica is there again."""
import concurrent.futures
import signal
import time

from chaos_cluster import await_true


def _some_seconds(dice):
    # The coordinator calls a node down after one second and lost after four.
    return dice.choice([dice.uniform(0.2, 0.9), dice.uniform(1.2, 3), dice.uniform(5, 7)])


def kill_node(cluster, dice):
    node = dice.choice(cluster.nodes)
    away = _some_seconds(dice)
    node.kill()
    time.sleep(away)
    node.start()
    return f"{node.name} killed, started {away:.1f} s later"


def stop_node(cluster, dice):
    node = dice.choice(cluster.nodes)
    away = _some_seconds(dice)
    node.kill(signal.SIGSTOP)
    time.sleep(away)
    node.kill(signal.SIGCONT)
    return f"{node.name} stood still for {away:.1f} s"


def cut_node(cluster, dice):
    # Not the first: a reader is on its host, and would be cut off with it.
    node = dice.choice(cluster.nodes[1:])
    away = _some_seconds(dice)
    node.host.cut()
    time.sleep(away)
    node.host.mend()
    # TCP has doubled its pause with every packet lost: a connection that outlived the cut may be
    # silent for as long again, and so long the node counts as at fault.
    time.sleep(min(away, 1))
    return f"{node.name} cut off for {away:.1f} s"


def join_and_drain(cluster, dice):
    """One of the old ones is drained while a new one joins: it takes its place."""
    spare = cluster.spare()
    spare.start()
    old = dice.choice(cluster.nodes[1:])
    time.sleep(dice.uniform(0, 2))
    cluster.ctl("drain", old.name, "--wait")
    cluster.await_settled(moved_to=spare)
    old.leave()
    cluster.nodes[cluster.nodes.index(old)] = spare
    return f"{spare.name} joined, {old.name} was drained and left"


def _while_a_node_joins(cluster, disturb):
    """disturb(spare) while slots are on their way to it; then it is drained again."""
    spare = cluster.spare()
    spare.start()
    await_true(f"slots are on their way to {spare.name}",
               lambda: cluster.node(spare.name).get("incoming_slots", 0) > 0)
    told = disturb(spare)
    cluster.await_settled(moved_to=spare)
    cluster.ctl("drain", spare.name, "--wait")
    cluster.await_settled()
    spare.leave()
    return f"while {spare.name} joined: {told}"


def kill_node_while_moving(cluster, dice):
    def disturb(spare):
        victim = dice.choice([spare] + cluster.nodes[1:])
        victim.kill()
        time.sleep(_some_seconds(dice))
        victim.start()
        return f"{victim.name} killed and started again"
    return _while_a_node_joins(cluster, disturb)


def _without_leader(cluster, away, end, mend):
    """How long it took until a change was taken again, by whomever, is kept."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        end()
        resumed = pool.submit(cluster.seconds_until_a_change)
        time.sleep(away)
        mend()
        cluster.resumed_s.append(resumed.result())
    return f"changes went on after {cluster.resumed_s[-1]:.1f} s"


def kill_leader(cluster, dice):
    leader = await_true("a coordinator leads", cluster.leader)
    told = _without_leader(cluster, dice.uniform(0.2, 5), leader.kill, leader.start)
    return f"the leader on {leader.host.name} killed and started again; {told}"


def stop_leader(cluster, dice):
    leader = await_true("a coordinator leads", cluster.leader)
    away = dice.uniform(1, 6)
    told = _without_leader(cluster, away, lambda: leader.kill(signal.SIGSTOP),
                           lambda: leader.kill(signal.SIGCONT))
    return f"the leader on {leader.host.name} stood still for {away:.1f} s; {told}"


def cut_leader(cluster, dice):
    leader = await_true("a coordinator leads", cluster.leader)
    away = dice.uniform(1, 6)
    told = _without_leader(cluster, away, leader.host.cut, leader.host.mend)
    return f"the leader's host {leader.host.name} cut off for {away:.1f} s, its etcd member too; {told}"


def kill_leader_while_moving(cluster, dice):
    return _while_a_node_joins(cluster, lambda spare: kill_leader(cluster, dice))


def kill_etcd_member(cluster, dice):
    member = dice.choice(cluster.etcd)
    member.kill()
    time.sleep(dice.uniform(0.5, 4))
    member.start()
    return f"the etcd member on {member.host.name} killed and started again"


def fill_disk(cluster, dice):
    """Of a coordinator's host: its etcd member and both logs write there."""
    at = dice.randrange(len(cluster.coordinators))
    host = cluster.coordinators[at].host
    host.fill_disk()
    # Something that must be written while the disk is full.
    node = dice.choice(cluster.nodes)
    cluster.ctl("drain", node.name)
    cluster.ctl("undrain", node.name)
    time.sleep(dice.uniform(1, 3))
    host.empty_disk()
    cluster.etcd[at].start_if_ended()
    cluster.coordinators[at].start_if_ended()
    return f"the disk of {host.name} was full"


def switch_version(cluster, dice):
    before = cluster.current_version()
    model = 1 - cluster.model_of[before]
    cluster.ctl("create-version", "--model", cluster.models[model], "--replicas",
                cluster.options.replicas, "--not-current", "--wait")
    after = max(cluster.model_of) + 1
    cluster.model_of[after] = model
    cluster.ctl("switch", after)
    told = f"version {after} loaded and switched to"
    if dice.random() < 0.5:
        time.sleep(dice.uniform(0, 1))
        cluster.ctl("rollback")
        before, after = after, before
        told += ", rolled back"
    cluster.ctl("drop-version", before)
    return f"{told}, version {before} dropped"


KINDS = {
    "kill-node": kill_node,
    "stop-node": stop_node,
    "cut-node": cut_node,
    "join-and-drain": join_and_drain,
    "kill-node-while-moving": kill_node_while_moving,
    "kill-leader": kill_leader,
    "stop-leader": stop_leader,
    "cut-leader": cut_leader,
    "kill-leader-while-moving": kill_leader_while_moving,
    "kill-etcd-member": kill_etcd_member,
    "fill-disk": fill_disk,
    "switch-version": switch_version,
}
