"""When each alert of the chart fires and when it does not, as promtool tests."""
import pathlib

import yaml

# (alert, series, minute at which it is looked at, labels of the alert that fires, its summary, its
# description where that has a figure; None: nothing fires). A series is "name{labels}": values.
CASES = [
    ("EngramNoLeader", {'engram_coordinator_leading{namespace="n",pod="c0"}': "1 0x9",
                        'engram_coordinator_leading{namespace="n",pod="c1"}': "0x10"}, 5,
     {"namespace": "n"}, "No coordinator leads", None),
    ("EngramNoLeader", {'engram_coordinator_leading{namespace="n",pod="c0"}': "1 0x9",
                        'engram_coordinator_leading{namespace="n",pod="c1"}': "0 1x9"}, 5,
     None, None, None),
    ("EngramNoLeader", {}, 5, {}, "No coordinator leads", None),
    # Another release has its leader; the series of this one's coordinators are gone with them.
    ("EngramNoLeader", {'engram_coordinator_leading{namespace="n",pod="c0"}': "1x10",
                        'engram_node_coordinator_connected{namespace="n",pod="m0"}': "1x10",
                        'engram_coordinator_leading{namespace="o",pod="c0"}': "1 stale",
                        'engram_node_coordinator_connected{namespace="o",pod="m0"}': "1 0x9",
                        'engram_node_coordinator_connected{namespace="o",pod="m1"}': "1 0x9"}, 8,
     {"namespace": "o"}, "No coordinator leads", None),
    # In one namespace.
    ("EngramNoLeader", {'engram_coordinator_leading{namespace="n",app_kubernetes_io_instance="a",pod="c0"}': "1x10",
                        'engram_coordinator_leading{namespace="n",app_kubernetes_io_instance="b",pod="c1"}': "0x10"}, 5,
     {"namespace": "n", "app_kubernetes_io_instance": "b"}, "No coordinator leads", None),
    # One alert where everything tells of it, and none for a node that lost its way alone.
    ("EngramNoLeader", {'engram_node_coordinator_connected{namespace="n",pod="m0"}': "0x10"}, 5,
     {"namespace": "n"}, "No coordinator leads", None),
    ("EngramNoLeader", {'engram_coordinator_leading{namespace="n",pod="c0"}': "1x10",
                        'engram_node_coordinator_connected{namespace="n",pod="m0"}': "0x10",
                        'engram_node_coordinator_connected{namespace="n",pod="m1"}': "1x10"}, 5, None, None, None),
    ("EngramSlotsUnreadable",
     {'engram_coordinator_slots{namespace="n",pod="c",instance="i",version="2"}': "100x10",
      'engram_coordinator_slots_ready{namespace="n",pod="c",instance="i",version="2"}': "97x10",
      'engram_coordinator_version_current{namespace="n",pod="c",instance="i",version="2"}': "1x10"},
     5, {"namespace": "n", "pod": "c", "instance": "i", "version": "2"},
     "3 slots of version 2 cannot be read", None),
    # A version that is being loaded and that nobody follows yet.
    ("EngramSlotsUnreadable",
     {'engram_coordinator_slots{namespace="n",pod="c",instance="i",version="3"}': "100x10",
      'engram_coordinator_slots_ready{namespace="n",pod="c",instance="i",version="3"}': "0x10",
      'engram_coordinator_version_current{namespace="n",pod="c",instance="i",version="3"}': "0x10"},
     5, None, None, None),
    ("EngramRowsFailed", {'engram_client_rows_failed_total{namespace="n",pod="w"}': "0 0 0 4x10"}, 4,
     {"namespace": "n"}, "Rows could not be had within their deadline",
     "4 rows in 5 minutes; their requests failed or were computed again."),
    ("EngramRowsFailed", {'engram_client_rows_failed_total{namespace="n",pod="w"}': "7x20"}, 10,
     None, None, None),
    ("EngramRowsCorrupt", {'engram_client_rows_corrupt_total{namespace="n",pod="w"}': "0 0 1x20"}, 6,
     {"namespace": "n", "pod": "w"}, "Rows with a wrong CRC at w", None),
    ("EngramRowsCorrupt", {'engram_node_corrupt_rows_found_total{namespace="n",pod="m"}': "0 0 1x20"}, 6,
     {"namespace": "n", "pod": "m"}, "Rows with a wrong CRC at m", None),
    ("EngramRowsCorrupt", {'engram_node_corrupt_rows_found_total{namespace="n",pod="m"}': "1x30"}, 20,
     None, None, None),
    ("EngramPrefetchLate",
     {'engram_client_tickets_total{namespace="n",pod="w",layer="1"}': "0+100x30",
      'engram_client_tickets_late_total{namespace="n",pod="w",layer="1"}': "0+2x30",
      'engram_client_tickets_total{namespace="n",pod="w",layer="14"}': "0+100x30",
      'engram_client_tickets_late_total{namespace="n",pod="w",layer="14"}': "0+1x30"}, 25,
     {"namespace": "n", "layer": "1"}, "2% of the prefetches of layer 1 come late", None),
    ("EngramPrefetchLate",
     {'engram_client_tickets_total{namespace="n",pod="w",layer="1"}': "0x30",
      'engram_client_tickets_late_total{namespace="n",pod="w",layer="1"}': "0x30"}, 25,
     None, None, None),
    ("EngramReplicasMissing", {'engram_coordinator_replicas_missing{version="1"}': "8x60"}, 45,
     {"version": "1"}, "8 replicas of slots of version 1 are missing", None),
    ("EngramReplicasMissing", {'engram_coordinator_replicas_missing{version="1"}': "8x20 0x40"}, 45,
     None, None, None),
    ("EngramMemoryNodeDown", {"engram_coordinator_nodes_known": "5x30",
                              "engram_coordinator_nodes_up": "5 4x30"}, 20,
     {}, "1 memory nodes are not heard of", None),
    # A pod that restarts is soon back.
    ("EngramMemoryNodeDown", {"engram_coordinator_nodes_known": "5x30",
                              "engram_coordinator_nodes_up": "5 4x5 5x24"}, 20, None, None, None),
    ("EngramDamageNotRepaired", {'engram_node_damaged_slots{pod="m",version="1"}': "2x30"}, 20,
     {"pod": "m", "version": "1"}, "2 damaged slots at m are not replaced", None),
    ("EngramDamageNotRepaired", {'engram_node_damaged_slots{pod="m",version="1"}': "2x5 0x30"}, 20,
     None, None, None),
    ("EngramZonesUnknown", {'engram_node_info{namespace="n",pod="m0",id="m0",zone=""}': "1x60",
                            'engram_node_info{namespace="n",pod="m1",id="m1",zone="a"}': "1x60",
                            'engram_coordinator_replicas_wanted{namespace="n",pod="c",version="1"}': "2x60"}, 45,
     {"namespace": "n"}, "1 memory nodes do not know their zone", None),
    # Where zones are known; and of another release that has one replica, nothing to keep apart.
    ("EngramZonesUnknown", {'engram_node_info{namespace="n",pod="m0",id="m0",zone="a"}': "1x60",
                            'engram_coordinator_replicas_wanted{namespace="n",pod="c",version="1"}': "2x60",
                            'engram_node_info{namespace="o",pod="m0",id="m0",zone=""}': "1x60",
                            'engram_coordinator_replicas_wanted{namespace="o",pod="c",version="1"}': "1x60"}, 45, None, None, None),
    ("EngramMemoryShort", {'engram_node_memory_wanted_bytes{pod="m"}': "1073741824x90"}, 80,
     {"pod": "m"}, "Slots wait for 1GiB of memory at m", None),
    ("EngramMemoryShort", {'engram_node_memory_wanted_bytes{pod="m"}': "1073741824x30 0x60"}, 80,
     None, None, None),
    ("EngramMemoryNodeFull",
     {'engram_node_slot_bytes{namespace="n",pod="m",version="1",state="assigned"}': "60x30",
      'engram_node_slot_bytes{namespace="n",pod="m",version="2",state="assigned"}': "38x30",
      'engram_node_slot_bytes{namespace="n",pod="m",version="1",state="ready"}': "60x30",
      'engram_node_memory_limit_bytes{namespace="n",pod="m"}': "100x30"}, 25,
     {"namespace": "n", "pod": "m"}, "m is 98% full", None),
    ("EngramMemoryNodeFull",
     {'engram_node_slot_bytes{namespace="n",pod="m",version="1",state="assigned"}': "90x30",
      'engram_node_memory_limit_bytes{namespace="n",pod="m"}': "100x30"}, 25, None, None, None),
    ("EngramPlanProblem", {'engram_coordinator_plan_problem{version="1"}': "1x30"}, 25,
     {"version": "1"}, "Slots of version 1 stay where they are: no plan can be made", None),
    ("EngramPlanProblem", {'engram_coordinator_plan_problem{version="1"}': "0x30"}, 25,
     None, None, None),
    # 10 GiB at 10 kB a second; and some that stand still.
    ("EngramMovesSlow", {'engram_coordinator_move_pending_bytes{version="1"}': "10737418240x90",
                         'engram_coordinator_moved_bytes_total{version="1"}': "0+600000x90"}, 80,
     {"version": "1"}, "Moves of version 1 would take more than 4 hours", None),
    ("EngramMovesSlow", {'engram_coordinator_move_pending_bytes{version="1"}': "1024x90",
                         'engram_coordinator_moved_bytes_total{version="1"}': "5x90"}, 80,
     {"version": "1"}, "Moves of version 1 would take more than 4 hours", None),
    ("EngramMovesSlow", {'engram_coordinator_move_pending_bytes{version="1"}': "10737418240x90",
                         'engram_coordinator_moved_bytes_total{version="1"}': "0+600000000x90"}, 80,
     None, None, None),
    ("EngramMovesSlow", {'engram_coordinator_move_pending_bytes{version="1"}': "0x90",
                         'engram_coordinator_moved_bytes_total{version="1"}': "5x90"}, 80,
     None, None, None),
    ("EngramFollowerBehind", {'engram_coordinator_state_age_seconds{pod="c1"}': "0 30x20"}, 15,
     {"pod": "c1"}, "c1 does not know the newest state", None),
    ("EngramFollowerBehind", {'engram_coordinator_state_age_seconds{pod="c1"}': "1x20"}, 15,
     None, None, None),
    ("EngramMoreMemoryNodesWanted", {"engram_coordinator_desired_memory_nodes": "6x90",
                                     "engram_coordinator_nodes_known": "5x90",
                                     "engram_coordinator_nodes_draining": "1x90"}, 80,
     {}, "2 more memory nodes are recommended", None),
    ("EngramMoreMemoryNodesWanted", {"engram_coordinator_desired_memory_nodes": "3x90",
                                     "engram_coordinator_nodes_known": "5x90",
                                     "engram_coordinator_nodes_draining": "1x90"}, 80, None, None, None),
    # Seconds since 1970, which is where promtool's clock starts.
    ("EngramCertificateEnds",
     {'engram_certificate_expires_seconds{namespace="n",pod="m0",use="cluster"}': "864000x120",
      'engram_certificate_expires_seconds{namespace="n",pod="c0",use="etcd"}': "7776000x120"}, 120,
     {"namespace": "n", "pod": "m0", "use": "cluster"}, "The certificate of m0 (cluster) ends in 9d 22h 0m 0s", None),
    # New files were taken.
    ("EngramCertificateEnds",
     {'engram_certificate_expires_seconds{namespace="n",pod="m0",use="cluster"}': "864000x30 7776000x90"}, 120,
     None, None, None),
    # Hourly; the second one fails, or all do.
    ("EngramSnapshotsFail",
     {'kube_cronjob_status_last_schedule_time{namespace="n",cronjob="p-etcd-snapshot"}': "60x59 3660x60",
      'kube_cronjob_status_last_successful_time{namespace="n",cronjob="p-etcd-snapshot"}': "75x120"}, 100,
     {"namespace": "n", "cronjob": "p-etcd-snapshot"}, "p-etcd-snapshot: no snapshot of etcd was taken when one was due", None),
    ("EngramSnapshotsFail",
     {'kube_cronjob_status_last_schedule_time{namespace="n",cronjob="p-etcd-snapshot"}': "60x120",
      'kube_cronjob_status_last_successful_time{namespace="o",cronjob="p-etcd-snapshot"}': "75x120"}, 100,
     {"namespace": "n", "cronjob": "p-etcd-snapshot"}, "p-etcd-snapshot: no snapshot of etcd was taken when one was due", None),
    ("EngramSnapshotsFail",
     {'kube_cronjob_status_last_schedule_time{namespace="n",cronjob="p-etcd-snapshot"}': "60x59 3660x60",
      'kube_cronjob_status_last_successful_time{namespace="n",cronjob="p-etcd-snapshot"}': "75x60 3675x59"}, 100,
     None, None, None),
    ("EngramRequestsRefused",
     {'engram_worker_requests_total{namespace="n",pod="w",result="refused"}': "0+5x30"}, 20,
     {"namespace": "n"}, "Model workers refuse requests", None),
    ("EngramRequestsRefused",
     {'engram_worker_requests_total{namespace="n",pod="w",result="refused"}': "5x30",
      'engram_worker_requests_total{namespace="n",pod="w",result="failed"}': "0+5x30"}, 20, None, None, None),
]


def promtool_tests(rules_file: pathlib.Path) -> dict:
    """What promtool test rules takes. An alert that lacks a case of either kind is an error."""
    rules = {rule["alert"]: rule for group in yaml.safe_load(rules_file.read_text())["groups"]
             for rule in group["rules"]}
    for alert in rules:
        kinds = {case[3] is not None for case in CASES if case[0] == alert}
        if kinds != {True, False}:
            raise ValueError(f"{alert}: needs a case that fires and one that does not")
    tests = []
    for alert, series, minute, labels, summary, description in CASES:
        rule = rules[alert]
        expected = []
        if labels is not None:
            annotations = dict(rule["annotations"], summary=summary)
            if description is not None:
                annotations["description"] = description
            expected = [{"exp_labels": dict(labels, **rule["labels"]), "exp_annotations": annotations}]
        tests.append({
            "interval": "1m",
            "name": alert,
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}],
        })
    return {"rule_files": [str(rules_file)], "evaluation_interval": "1m", "tests": tests}
