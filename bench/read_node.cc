#include "bench/read_node.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include <nlohmann/json.hpp>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engram/table/stored_row.h"
#include "engram/transport/ucx/ucx_row_server.h"

namespace engram::bench {
namespace {

// Fills one region with the node's slots of the layout, and serves them.
Result<Region> Fill(UcxRowServer& server, const std::shared_ptr<const TableLayout>& layout,
                    const ReadNode::Options& options) {
  const RowPlaces places(*layout, options.part, options.parts);
  ENGRAM_ASSIGN_OR_RETURN(const Region region, server.AllocateRegion(places.total_bytes()));
  const auto slots = std::make_shared<ServedSlots>(kBenchVersion, kBenchIdentity, layout);
  const uint32_t row_bytes = layout->row_bytes();
  for (uint32_t s = options.part; s < layout->slot_count(); s += options.parts) {
    const SlotRange& range = layout->slot(SlotIndex(s));
    const uint64_t first = uint64_t{s} << layout->slot_shift();
    for (uint32_t row = 0; row < range.row_count; ++row) {
      const RowAddress address(first + row);
      std::byte* const at = region.bytes.data() + places.OffsetOf(address);
      MakeUpRow(address, {at, row_bytes});
      SealRow(kBenchVersion, layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)],
              RowId(range.first_row.value() + row), at, row_bytes);
    }
    const uint64_t offset = places.OffsetOf(RowAddress(first));
    slots->Publish(SlotIndex(s), region.bytes.data() + offset, {region.number, offset});
  }
  server.Serve(slots);
  return region;
}

std::string ToHex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += kDigits[static_cast<uint8_t>(c) >> 4];
    hex += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return hex;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// Resident, whatever its kind. 0 where /proc does not say.
uint64_t MemoryBytesOf(const std::string& process) {
  std::ifstream status("/proc/" + process + "/status");
  uint64_t kilobytes = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) != 0 && line.rfind("HugetlbPages:", 0) != 0) continue;
    kilobytes += std::stoull(line.substr(line.find(':') + 1));
  }
  return kilobytes * 1024;
}

// What the child serves, for as long as it lives.
struct Served {
  std::unique_ptr<UcxRowServer> server;
  std::unique_ptr<BareServer> bare;  // reads the server's memory: ends first
  nlohmann::json line;
};

Result<Served> StartServing(const ReadNode::Options& options,
                            const std::shared_ptr<const TableLayout>& layout) {
  Served served;
  if (options.pinned) ShareProcessors(/*node=*/true);
  UcxRowServerOptions server_options;
  server_options.listen_address = "127.0.0.1:0";
  if (options.network != nullptr) {
    ENGRAM_TRY(options.network->Enter(options.host));
    server_options.listen_address = HostNetwork::AddressOf(options.host) + ":0";
    server_options.security.insecure = true;  // a network of this process
  }
  server_options.incarnation = Incarnation(static_cast<uint64_t>(getpid()));
  server_options.tls = options.transport;
  server_options.one_sided = options.one_sided;
  server_options.gather_threads = options.gather_threads;
  server_options.fair_reads = options.fair_reads;
  ENGRAM_ASSIGN_OR_RETURN(served.server, UcxRowServer::Create(server_options));
  const uint64_t memory_before = MemoryBytesOf("self");
  ENGRAM_ASSIGN_OR_RETURN(const Region region, Fill(*served.server, layout, options));
  served.line["row_memory_bytes"] = MemoryBytesOf("self") - memory_before;
  served.line["address"] = served.server->address();
  served.line["huge_pages"] = region.huge_pages;
  if (options.copy != nullptr) {
    std::memcpy(options.copy->bytes().data(), region.bytes.data(), layout->total_bytes());
  }
  if (options.bare_server) {
    ENGRAM_ASSIGN_OR_RETURN(
        served.bare, BareServer::Start(options.transport, region.bytes, layout->row_bytes()));
    served.line["bare_address"] = ToHex(served.bare->worker_address());
  }
  return served;
}

// The child's whole life: says where it is, or why not, then waits for the end.
void Serve(const ReadNode::Options& options, const std::shared_ptr<const TableLayout>& layout,
           int channel) {
  const auto served = StartServing(options, layout);
  const nlohmann::json said =
      served.has_value() ? served->line : nlohmann::json{{"error", served.error().ToString()}};
  const std::string line = said.dump() + "\n";
  if (write(channel, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return;
  char byte = 0;
  while (served.has_value() && read(channel, &byte, 1) > 0) {
  }
}

// Up to the end of the line, or what came before the channel closed.
std::string ReadLine(int channel) {
  std::string line;
  char byte = 0;
  while (read(channel, &byte, 1) == 1 && byte != '\n') line += byte;
  return line;
}

}  // namespace

RowPlaces::RowPlaces(const TableLayout& layout, uint32_t part, uint32_t parts)
    : shift_(layout.slot_shift()),
      mask_((uint64_t{1} << layout.slot_shift()) - 1),
      stride_(layout.row_stride()) {
  for (uint32_t s = 0; s < layout.slot_count(); ++s) {
    slots_.push_back(total_bytes_);
    if (s % parts == part) {
      total_bytes_ += uint64_t{layout.slot(SlotIndex(s)).row_count} * stride_;
    }
  }
}

Result<std::unique_ptr<ReadNode>> ReadNode::Start(
    const Options& options, const std::shared_ptr<const TableLayout>& layout) {
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) {
    return Error(StatusCode::kIo, std::string("socketpair: ") + std::strerror(errno));
  }
  const pid_t child = fork();
  if (child < 0) return Error(StatusCode::kIo, std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    close(channel[0]);
    Serve(options, layout, channel[1]);
    _exit(0);
  }
  close(channel[1]);
  std::unique_ptr<ReadNode> node(new ReadNode(child, channel[0]));
  const auto said = nlohmann::json::parse(ReadLine(channel[0]), nullptr, false);
  if (!said.is_object()) {
    return Error(StatusCode::kUnavailable, "the benchmark's memory node ended while it started");
  }
  if (said.contains("error")) return Error(StatusCode::kUnavailable, said["error"]);
  node->address_ = said["address"];
  node->huge_pages_ = said["huge_pages"];
  node->row_memory_bytes_ = said["row_memory_bytes"];
  if (said.contains("bare_address")) node->bare_address_ = FromHex(said["bare_address"]);
  return node;
}

ReadNode::~ReadNode() {
  // Nodes that were started later hold copies of it, which a close would leave open.
  shutdown(channel_, SHUT_RDWR);
  close(channel_);
  for (int i = 0; i < 500; ++i) {
    if (waitpid(child_, nullptr, WNOHANG) != 0) return;
    usleep(10'000);
  }
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
}

void ShareProcessors(bool node) {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  if (count < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (long cpu = node ? 0 : 1; cpu < (node ? 1 : count); ++cpu)
    CPU_SET(static_cast<size_t>(cpu), &set);
  (void)sched_setaffinity(0, sizeof(set), &set);
}

uint64_t NodeContact::MemoryBytes() const { return MemoryBytesOf(std::to_string(pid)); }

double NodeContact::CpuSeconds() const {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace engram::bench
