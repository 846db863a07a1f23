#include "client/directory_state.h"

#include <gtest/gtest.h>

#include "engram/table/table_proto.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram {
namespace {

class DirectoryStateTest : public testing::Test {
 protected:
  DirectoryStateTest() {
    map_.version = TableVersion(7);
    map_.epoch = Epoch(1);
    map_.nodes.push_back({"m0", "zone", "127.0.0.1:2", Incarnation(5)});
    map_.owners.assign(layout_->slot_count(), NodeIndex(0));
  }
  [[nodiscard]] proto::GetShardMapReply Reply() const {
    proto::GetShardMapReply reply;
    *reply.mutable_map() = ShardMapToProto(map_);
    *reply.mutable_spec() = TableSpecToProto(layout_->spec());
    reply.set_model_identity(ModelIdentityToBytes(test::SmallIdentity()));
    reply.set_ready(true);
    reply.set_current_version(7);
    return reply;
  }

  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
  ShardMap map_;
};

TEST_F(DirectoryStateTest, OfAReplyWithABadMapNothingIsTaken) {
  DirectoryState state({TableVersion(), std::nullopt});
  proto::GetShardMapReply bad = Reply();
  bad.mutable_map()->mutable_owners()->RemoveLast();
  EXPECT_FALSE(state.Take(bad).has_value());
  EXPECT_EQ(state.map(), nullptr);
  EXPECT_EQ(state.layout(), nullptr);
  EXPECT_FALSE(state.ready());
  EXPECT_EQ(state.current_version(), TableVersion());
  ASSERT_TRUE(state.Take(Reply()).has_value());
  EXPECT_EQ(*state.map(), map_);
  EXPECT_EQ(state.layout()->spec(), layout_->spec());
}

TEST_F(DirectoryStateTest, ReaderOfADroppedVersionLearnsWhatIsCurrent) {
  DirectoryState state({TableVersion(), std::nullopt});
  ASSERT_TRUE(state.Take(Reply()).has_value());
  proto::GetShardMapReply dropped;
  dropped.set_current_version(8);
  const auto newer = state.Take(dropped);
  ASSERT_TRUE(newer.has_value());
  EXPECT_FALSE(*newer);
  EXPECT_EQ(*state.map(), map_);
  EXPECT_EQ(state.current_version(), TableVersion(8));
  EXPECT_EQ(state.NextRequest().known_current(), 8u);
}

}  // namespace
}  // namespace engram
