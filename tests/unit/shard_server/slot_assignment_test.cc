#include "shard_server/slot_assignment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/table/table_proto.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class SlotAssignmentTest : public testing::Test {
 protected:
  SlotAssignmentTest() {
    message_.set_version(5);
    message_.set_revision(2);
    *message_.mutable_spec() = TableSpecToProto(test::SmallSpec());
    message_.set_model_identity(ModelIdentityToBytes(test::SmallIdentity()));
    message_.set_checkpoint_path("/models/x");
    for (const uint32_t slot : {4u, 6u, 9u}) {
      message_.add_slots(slot);
      message_.add_digests(100 + slot);
    }
    AddSource("m1", "host:1", 11);
    AddSource("m2", "host:2", 22);
  }
  void AddSource(const std::string& id, const std::string& address, uint64_t incarnation) {
    proto::SourceNode* source = message_.add_sources();
    source->set_id(id);
    source->set_data_address(address);
    source->set_incarnation(incarnation);
  }
  void SetOrigins(const std::vector<uint32_t>& sources, const std::vector<uint32_t>& ranks) {
    message_.mutable_slot_sources()->Assign(sources.begin(), sources.end());
    message_.mutable_slot_ranks()->Assign(ranks.begin(), ranks.end());
  }
  // Why the message is refused; empty when it is not.
  std::string Refusal() {
    const auto assignment = SlotAssignmentFromProto(message_);
    if (assignment.has_value()) return "";
    EXPECT_EQ(assignment.error().code(), StatusCode::kMalformed);
    return assignment.error().message();
  }

  proto::SlotAssignment message_;
};

TEST_F(SlotAssignmentTest, SourcesRanksAndDamagedSlotsAreTaken) {
  SetOrigins({1, kFromCheckpoint, 0}, {2, 0, 1});
  message_.add_damaged_slots(4);
  message_.add_damaged_slots(9);
  const SlotAssignment assignment = SlotAssignmentFromProto(message_).value();
  EXPECT_THAT(assignment.sources, ElementsAre(SourceNode{"m1", "host:1", Incarnation(11)},
                                              SourceNode{"m2", "host:2", Incarnation(22)}));
  EXPECT_THAT(assignment.origins,
              ElementsAre(SlotOrigin{1, 2}, SlotOrigin{kFromCheckpoint, 0}, SlotOrigin{0, 1}));
  EXPECT_THAT(assignment.damaged, ElementsAre(SlotIndex(4), SlotIndex(9)));
}

TEST_F(SlotAssignmentTest, WithoutOriginsEverySlotComesFromTheCheckpointAtRankZero) {
  const SlotAssignment assignment = SlotAssignmentFromProto(message_).value();
  EXPECT_TRUE(assignment.origins.empty());
  EXPECT_EQ(assignment.origin(2), (SlotOrigin{kFromCheckpoint, 0}));
}

TEST_F(SlotAssignmentTest, ListsOfAnotherLengthAreRefused) {
  SetOrigins({1, 0}, {2, 0, 1});
  EXPECT_THAT(Refusal(), HasSubstr("3 slots but 2 slot_sources or slot_ranks"));
  SetOrigins({1, 0, 0}, {2});
  EXPECT_THAT(Refusal(), HasSubstr("3 slots but 1 slot_sources or slot_ranks"));
}

TEST_F(SlotAssignmentTest, SourceThatIsNotListedIsRefused) {
  SetOrigins({1, 2, 0}, {});
  EXPECT_THAT(Refusal(), HasSubstr("slot 6 has source 2 of 2"));
}

TEST_F(SlotAssignmentTest, SourceWithoutAddressOrIncarnationIsRefused) {
  AddSource("m3", "", 3);
  EXPECT_THAT(Refusal(), HasSubstr("source 2 lacks"));
  message_.mutable_sources(2)->set_data_address("host:3");
  EXPECT_EQ(Refusal(), "");
  message_.mutable_sources(2)->set_incarnation(0);
  EXPECT_THAT(Refusal(), HasSubstr("source 2 lacks"));
}

TEST_F(SlotAssignmentTest, DamagedSlotMustBeAssignedAndInOrder) {
  message_.add_damaged_slots(5);
  EXPECT_THAT(Refusal(), HasSubstr("damaged slot 5 is not assigned"));
  message_.set_damaged_slots(0, 9);
  message_.add_damaged_slots(4);
  EXPECT_THAT(Refusal(), HasSubstr("not ascending at 4"));
}

}  // namespace
}  // namespace engram
