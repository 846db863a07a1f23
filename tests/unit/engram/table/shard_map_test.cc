#include "engram/table/shard_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::HasSubstr;

ShardMap TwoReplicasOfThreeSlots() {
  ShardMap map;
  map.version = TableVersion(1);
  map.epoch = Epoch(1);
  map.replica_count = 2;
  map.nodes = {{"m0", "a", "10.0.0.1:1", Incarnation(5)},
               {"m1", "b", "10.0.0.2:1", Incarnation(0)}};
  map.owners = {NodeIndex(0), NodeIndex(1), NodeIndex(1), kNoNode, kNoNode, kNoNode};
  return map;
}

TEST(ShardMapTest, MapWithMissingReplicasIsValid) {
  const ShardMap map = TwoReplicasOfThreeSlots();
  EXPECT_EQ(map.Validate(3), Status());
  EXPECT_EQ(map.Replicas(SlotIndex(1))[0], NodeIndex(1));
  EXPECT_EQ(map.Replicas(SlotIndex(1))[1], kNoNode);
}

template <typename Change>
std::string Fault(Change change) {
  ShardMap map = TwoReplicasOfThreeSlots();
  change(map);
  const Status status = map.Validate(3);
  EXPECT_EQ(status.code(), StatusCode::kMalformed);
  return status.message();
}

TEST(ShardMapTest, RefusesAndNamesWhatIsOutOfRange) {
  EXPECT_THAT(Fault([](ShardMap& m) { m.owners.pop_back(); }),
              HasSubstr("5 owners, expected 3 slots x 2 replicas"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.owners[2] = NodeIndex(2); }),
              HasSubstr("slot 1 is owned by node 2 of 2"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.owners[1] = NodeIndex(0); }),
              HasSubstr("slot 0 has node 0 as two replicas"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.owners[5] = NodeIndex(0); }),
              HasSubstr("slot 2 has a replica after a missing one"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.replica_count = 4; }), HasSubstr("replica_count = 4"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.replica_count = 0; }), HasSubstr("replica_count = 0"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.version = TableVersion(0); }), HasSubstr("version 0"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.epoch = Epoch(0); }), HasSubstr("epoch 0"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.nodes[1].id = "m0"; }), HasSubstr("two nodes"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.nodes[1].id.clear(); }), HasSubstr("node 1 has an id"));
  EXPECT_THAT(Fault([](ShardMap& m) { m.nodes[0].address.assign(256, 'x'); }),
              HasSubstr("zone or address"));
}

}  // namespace
}  // namespace engram
