#include "tests/sim/simulation.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/sim/sim_client.h"
#include "tests/sim/sim_coordinator.h"
#include "tests/sim/sim_node.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/sim_tables.h"
#include "tests/sim/world.h"

namespace engram::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kFaultsLast = seconds(12);
constexpr Duration kRestWithin = seconds(40);
constexpr size_t kCoordinators = 3;
constexpr size_t kClients = 2;

ClusterState::Options CoordinatorOptions() {
  ClusterState::Options options;
  options.heartbeat_interval = milliseconds(200);
  options.down_after = milliseconds(700);
  options.lost_after = milliseconds(3000);
  options.incoming_slots_max = 16;
  return options;
}

class Cluster {
 public:
  explicit Cluster(const Scenario& scenario)
      : world_(scenario.seed),
        network_(&world_),
        store_(&world_, scenario.bug),
        gentle_(scenario.seed % 2 == 0),
        replicas_(gentle_ ? 2 : static_cast<uint32_t>(1 + Pick(3))),
        nodes_at_first_(3 + Pick(2)) {
    if (scenario.prints_notes) world_.PrintNotes();
    Build(scenario.bug);
  }

  Outcome Run();

 private:
  [[nodiscard]] size_t Pick(size_t bound) { return world_.random().Below(bound); }
  [[nodiscard]] Duration Between(int least_ms, int most_ms) {
    return world_.random().Between(milliseconds(least_ms), milliseconds(most_ms));
  }
  void Build(PlantedBug bug);
  void RunUntil(MonotonicTime end);
  [[nodiscard]] const ClusterState* Leader() const;
  // Asks whoever leads, again until it is done.
  void Change(const ClusterEvent& event, int tries = 20);

  // Every slot has all its replicas, ready, and no memory node is at fault.
  [[nodiscard]] bool Whole() const;
  // Why not everything is at rest; empty = it is.
  [[nodiscard]] std::string Unrest() const;

  void NextFault();
  void Fault();
  void HarmNode();
  void KillNode(SimNode* node);
  void CutForAWhile(const std::string& a, const std::string& b, Duration time);
  void StopForAWhile(Process* process, Duration time);
  void HarmCoordinator();
  void HarmClient();
  void ChangeMembers();
  void ChangeVersions();
  void EndFaults();
  void BeforeWrite(const SimNode& node, std::span<const std::byte> bytes);

  World world_;
  Network network_;
  SimStore store_;
  const bool gentle_;
  const uint32_t replicas_;
  const size_t nodes_at_first_;
  SimCoordinator::MapBook map_book_;
  std::vector<std::unique_ptr<SimCoordinator>> coordinators_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::vector<std::unique_ptr<SimClient>> clients_;
  std::set<std::string> draining_;
  bool faults_end_ = false;
  size_t nodes_at_fault_ = 0;
  uint64_t faults_ = 0;
  uint64_t checks_ = 0;
  TableVersion second_version_;
};

void Cluster::Build(PlantedBug bug) {
  std::vector<std::string> names;
  for (size_t i = 0; i < kCoordinators; ++i) names.push_back("c" + std::to_string(i));
  const auto coordinator = [this](const std::string& name) {
    return coordinators_[static_cast<size_t>(name[1] - '0')].get();
  };
  const auto node = [this](const std::string& name) {
    return nodes_[static_cast<size_t>(name[1] - '0')].get();
  };
  for (const std::string& name : names) {
    coordinators_.push_back(std::make_unique<SimCoordinator>(&world_, &network_, &store_,
                                                             CoordinatorOptions(), name, bug));
    coordinators_.back()->set_map_book(&map_book_);
  }
  // Tight, so that memory that is given back is soon taken again: what all need, and half as much.
  // Half of the seeds have room for a second version too.
  const uint64_t versions = 1 + Pick(2);
  const uint64_t all = SimLayout()->total_bytes() * replicas_ * versions;
  const uint64_t memory_bytes =
      std::max(all / nodes_at_first_ * 3 / 2, SimLayout()->total_bytes() * versions) + 256;
  SimNode::Surroundings around;
  around.world = &world_;
  around.network = &network_;
  around.bug = bug;
  around.coordinator = coordinator;
  around.coordinators = names;
  around.node = node;
  around.before_write = [this](const SimNode& writer, std::span<const std::byte> bytes) {
    BeforeWrite(writer, bytes);
  };
  for (size_t i = 0; i < nodes_at_first_ + 2; ++i) {
    nodes_.push_back(std::make_unique<SimNode>(around, "m" + std::to_string(i), memory_bytes));
  }
  for (size_t i = 0; i < kClients; ++i) {
    SimClient::Surroundings client;
    client.world = &world_;
    client.network = &network_;
    client.bug = bug;
    client.coordinator = coordinator;
    client.coordinators = names;
    std::rotate(client.coordinators.begin(),
                client.coordinators.begin() + static_cast<std::ptrdiff_t>(i),
                client.coordinators.end());
    client.listener = [node](const std::string& address) { return node(address.substr(0, 2)); };
    // Half of the nodes, not the same for each client.
    client.same_host = [i](const SimNode& other) {
      return static_cast<size_t>(other.name()[1] - '0') % 2 == i;
    };
    client.stall_max = gentle_ ? milliseconds(200) : milliseconds(700);
    client.reads_must_succeed = [this] { return gentle_; };
    clients_.push_back(std::make_unique<SimClient>(client, "k" + std::to_string(i)));
  }
}

void Cluster::BeforeWrite(const SimNode& node, std::span<const std::byte> bytes) {
  ++checks_;
  for (const auto& client : clients_) {
    if (client->reader().MayRead(bytes)) {
      world_.Violated(node.name() + " writes where " + client->process()->name() +
                      " may read: its lease runs and its directory lists that place");
    }
  }
}

void Cluster::RunUntil(MonotonicTime end) {
  while (world_.violation().empty() && world_.RunOne(end)) {
  }
}

const ClusterState* Cluster::Leader() const {
  for (const auto& coordinator : coordinators_) {
    if (coordinator->process()->up() && !coordinator->process()->stopped() &&
        coordinator->leading() != nullptr && coordinator->leading()->term() == store_.terms()) {
      return coordinator->leading();
    }
  }
  return nullptr;
}

void Cluster::Change(const ClusterEvent& event, int tries) {
  const auto again = [this, event, tries] {
    if (tries > 0)
      world_.After(milliseconds(300), [this, event, tries] { Change(event, tries - 1); });
  };
  for (const auto& coordinator : coordinators_) {
    if (!coordinator->process()->up() || coordinator->process()->stopped() ||
        coordinator->leading() == nullptr) {
      continue;
    }
    coordinator->Change(event, [this, event, again](const Result<TableVersion>& created) {
      if (!created.has_value()) {
        world_.Note("refused: " + created.error().ToString());
        if (created.error().code() == StatusCode::kUnavailable) again();
      } else if (std::holds_alternative<VersionRequested>(event) && created->value() > 1) {
        second_version_ = *created;
      }
    });
    return;
  }
  again();
}

bool Cluster::Whole() const {
  if (nodes_at_fault_ > 0) return false;
  const ClusterState* const leader = Leader();
  if (leader == nullptr) return false;
  const proto::GetStatusReply status = leader->ClusterStatus(world_.Now());
  for (const proto::NodeStatus& node : status.nodes()) {
    if (node.assigned_slots() > 0 && (!node.up() || node.ready_slots() < node.assigned_slots())) {
      return false;
    }
  }
  return std::all_of(status.versions().begin(), status.versions().end(),
                     [](const auto& version) { return version.replicas_missing() == 0; });
}

std::string Cluster::Unrest() const {
  const ClusterState* const leader = Leader();
  if (leader == nullptr) return "nobody leads";
  const proto::GetStatusReply status = leader->ClusterStatus(world_.Now());
  for (const proto::NodeStatus& node : status.nodes()) {
    if (!node.up()) return node.id() + " is not up";
    if (node.ready_slots() < node.assigned_slots())
      return node.id() + " misses slots: " + node.error();
  }
  for (const proto::VersionStatus& version : status.versions()) {
    const std::string name = "version " + std::to_string(version.version());
    if (version.moves_pending() > 0) {
      return name + " has " + std::to_string(version.moves_pending()) + " moves to do";
    }
    if (version.replicas_missing() > 0) return name + " misses replicas: " + version.plan_problem();
  }
  for (const auto& client : clients_) {
    const std::shared_ptr<const ShardMap>& map = client->directory().map();
    if (map == nullptr) return client->process()->name() + " has no map";
    const std::shared_ptr<const ShardMap> newest = leader->Map(map->version);
    if (newest == nullptr || newest->epoch != map->epoch) {
      return client->process()->name() + " has an old map";
    }
    for (const auto& node : nodes_) {
      if (node->process()->up() && !node->server().AllAcknowledged(map->version, map->epoch)) {
        return "readers of " + node->name() + " have not acknowledged the newest map";
      }
    }
  }
  for (const auto& node : nodes_) {
    if (node->process()->up() && node->store().NeedsReclaim()) {
      return node->name() + " keeps memory that waits for readers";
    }
  }
  return {};
}

// ---- faults

void Cluster::NextFault() {
  world_.After(Between(100, 1500), [this] {
    if (faults_end_) return;
    Fault();
    NextFault();
  });
}

void Cluster::Fault() {
  ++faults_;
  switch (Pick(8)) {
    case 0:
    case 1:
    case 2:
      return HarmNode();
    case 3:
      return HarmCoordinator();
    case 4:
      return HarmClient();
    case 5:
    case 6:
      return ChangeMembers();
    default:
      return ChangeVersions();
  }
}

void Cluster::StopForAWhile(Process* process, Duration time) {
  if (!process->up()) return;
  world_.Note(process->name() + " is stopped");
  process->Stop();
  world_.After(time, [this, process, life = process->life()] {
    if (process->life() != life) return;
    world_.Note(process->name() + " goes on");
    process->Continue();
  });
}

void Cluster::CutForAWhile(const std::string& a, const std::string& b, Duration time) {
  world_.Note(a + " and " + b + " are cut off from each other");
  network_.Cut(a, b);
  world_.After(time, [this, a, b] { network_.Mend(a, b); });
}

void Cluster::KillNode(SimNode* node) {
  const uint64_t life = node->process()->life();
  node->Kill();
  for (const auto& client : clients_) {
    network_.Send(node->name(), client->process(), nullptr, [&client = *client, node, life] {
      client.reader().PeerDied(*node->process(), life);
    });
  }
}

void Cluster::HarmNode() {
  SimNode* const node = nodes_[Pick(nodes_.size())].get();
  if (!node->process()->up() || (gentle_ && !Whole())) return;
  const Duration time = gentle_ ? Between(100, 2500) : Between(100, 5000);
  ++nodes_at_fault_;
  // Clients learn of the end of a fault a little later.
  world_.After(time + milliseconds(1500), [this] { --nodes_at_fault_; });
  switch (Pick(4)) {
    case 0:
      KillNode(node);
      world_.After(time, [node] { node->Start(); });
      return;
    case 1:
      return StopForAWhile(node->process(), time);
    case 2: {
      const bool all = Pick(2) == 0;
      for (const auto& client : clients_) {
        if (all || Pick(2) == 0) CutForAWhile(node->name(), client->process()->name(), time);
      }
      for (const auto& coordinator : coordinators_) {
        if (all || Pick(2) == 0) CutForAWhile(node->name(), coordinator->process()->name(), time);
      }
      for (const auto& other : nodes_) {
        if (other.get() != node && (all || Pick(2) == 0)) {
          CutForAWhile(node->name(), other->name(), time);
        }
      }
      return;
    }
    default:
      world_.Note(node->name() + " is slow");
      network_.SetSlow(node->name(), Between(5, 150));
      world_.After(time, [this, node] { network_.SetSlow(node->name(), Duration()); });
  }
}

void Cluster::HarmCoordinator() {
  SimCoordinator* const coordinator = coordinators_[Pick(kCoordinators)].get();
  if (!coordinator->process()->up()) return;
  const Duration time = Between(100, 2500);
  switch (Pick(3)) {
    case 0:
      world_.Note(coordinator->process()->name() + " dies");
      coordinator->Kill();
      world_.After(time, [coordinator] { coordinator->Start(); });
      return;
    case 1:
      return StopForAWhile(coordinator->process(), time);
    default:
      return CutForAWhile(coordinator->process()->name(), "store", time);
  }
}

void Cluster::HarmClient() {
  SimClient* const client = clients_[Pick(kClients)].get();
  // A gentle stop leaves a batch the time that it needs.
  const Duration time = gentle_ ? Between(50, 400) : Between(50, 3000);
  if (Pick(2) == 0) return StopForAWhile(client->process(), time);
  for (const auto& coordinator : coordinators_) {
    CutForAWhile(client->process()->name(), coordinator->process()->name(), time);
  }
}

void Cluster::ChangeMembers() {
  SimNode* const node = nodes_[Pick(nodes_.size())].get();
  if (!node->process()->up()) {
    // A spare that joins. (Those that a fault killed come back by themselves.)
    if (node->process()->life() == 0) node->Start();
    return;
  }
  const bool undo = draining_.contains(node->name());
  if (!undo && (draining_.size() > 0 || (gentle_ && !Whole()))) return;
  if (undo) {
    draining_.erase(node->name());
  } else {
    draining_.insert(node->name());
  }
  world_.Note(undo ? node->name() + " is drained no more" : "drain " + node->name());
  Change(NodeDrained{node->name(), undo});
}

void Cluster::ChangeVersions() {
  if (second_version_ == TableVersion()) {
    VersionRequested request;
    request.spec = SimSpec();
    request.identity = SimIdentity();
    request.checkpoint_path = "/checkpoint";
    request.replica_count = replicas_;
    Change(request, 3);
    return;
  }
  Change(VersionDropped{second_version_}, 3);
  second_version_ = TableVersion();
}

void Cluster::EndFaults() {
  faults_end_ = true;
  world_.Note("the faults end");
  network_.MendAll();
  for (const std::string& name : draining_) Change(NodeDrained{name, true});
}

Outcome Cluster::Run() {
  for (const auto& coordinator : coordinators_) coordinator->Start();
  for (size_t i = 0; i < nodes_at_first_; ++i) nodes_[i]->Start();
  for (const auto& client : clients_) client->Start();
  VersionRequested request;
  request.spec = SimSpec();
  request.identity = SimIdentity();
  request.checkpoint_path = "/checkpoint";
  request.replica_count = replicas_;
  request.make_current = true;
  request.expect_nodes = static_cast<uint32_t>(nodes_at_first_);
  for (int tries = 0; tries < 20 && world_.violation().empty(); ++tries) {
    RunUntil(world_.Now() + milliseconds(500));
    const ClusterState* const leader = Leader();
    if (leader == nullptr) continue;
    if (leader->DefaultVersion() == TableVersion()) {
      Change(request);
    } else if (leader->Ready(leader->DefaultVersion()) && Whole()) {
      break;
    }
  }
  if (world_.violation().empty() && !Whole()) world_.Violated("the cluster did not start");
  NextFault();
  RunUntil(world_.Now() + kFaultsLast);
  EndFaults();
  const MonotonicTime late = world_.Now() + kRestWithin;
  RunUntil(world_.Now() + seconds(6));  // what harms end by themselves, and nodes restart
  std::string unrest = Unrest();
  while (world_.violation().empty() && !unrest.empty() && world_.Now() < late) {
    RunUntil(world_.Now() + milliseconds(500));
    unrest = Unrest();
  }
  if (!unrest.empty()) world_.Violated("not at rest long after the faults ended: " + unrest);

  Outcome outcome;
  outcome.violation = world_.violation();
  Figures& figures = outcome.figures;
  figures.steps = world_.steps();
  figures.faults = faults_;
  figures.terms = store_.terms();
  figures.checks = checks_;
  for (const auto& client : clients_) figures.Add(client->figures());
  return outcome;
}

}  // namespace

void Figures::Add(const Figures& other) {
  steps += other.steps;
  faults += other.faults;
  batches += other.batches;
  batches_failed += other.batches_failed;
  rows += other.rows;
  rows_mapped += other.rows_mapped;
  reads_hedged += other.reads_hedged;
  terms += other.terms;
  checks += other.checks;
}

Outcome Simulate(const Scenario& scenario) { return Cluster(scenario).Run(); }

}  // namespace engram::sim
