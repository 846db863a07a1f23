#include "engram/table/table_proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::HasSubstr;

TableSpec Spec() {
  TableSpec spec;
  spec.hash.variant = Variant::kDemo;
  spec.hash.max_ngram_size = 3;
  spec.hash.head_count = 8;
  spec.hash.base_sizes = {646400, 646401};
  spec.hash.layer_ids = {1, 15};
  spec.hash.compressed_vocab_size = 98627;
  spec.hash.pad_id = 2;
  spec.hash.seed = 9;
  spec.row_format = RowFormat::kF32;
  spec.row_values = 64;
  return spec;
}

TEST(TableProtoTest, TableSpecComesBackEqual) {
  const auto back = TableSpecFromProto(TableSpecToProto(Spec()));
  ASSERT_TRUE(back.has_value()) << back.error().ToString();
  EXPECT_EQ(*back, Spec());
}

template <typename Change>
Status SpecFault(Change change) {
  proto::TableSpec message = TableSpecToProto(Spec());
  change(message);
  const auto back = TableSpecFromProto(message);
  return back.has_value() ? Status() : back.error();
}

TEST(TableProtoTest, TableSpecOutOfBoundsIsMalformed) {
  const auto refused = [](const Status& status, const char* what) {
    EXPECT_EQ(status.code(), StatusCode::kMalformed);
    EXPECT_THAT(status.message(), HasSubstr(what));
  };
  refused(SpecFault([](auto& m) { m.mutable_hash()->set_variant(3); }), "variant = 3");
  // 256 + 1 would be kF8E4M3ScaleE8M0 in one byte.
  refused(SpecFault([](auto& m) { m.set_row_format(257); }), "row_format = 257");
  refused(SpecFault([](auto& m) { m.mutable_hash()->set_variant(257); }), "variant = 257");
  refused(SpecFault([](auto& m) { m.set_row_values(1u << 31); }), "row_values");
  refused(SpecFault([](auto& m) { m.mutable_hash()->set_max_ngram_size(-1); }), "max_ngram_size");
  refused(SpecFault([](auto& m) {
            for (int i = 0; i < 100; ++i) m.mutable_hash()->add_layer_ids(i + 100);
          }),
          "layer_ids has 102 entries");
  refused(SpecFault([](auto& m) { m.mutable_hash()->add_base_sizes(7); }), "base_sizes");
  refused(SpecFault([](auto& m) { m.clear_hash(); }), "variant = 0");
}

ShardMap Map() {
  ShardMap map;
  map.version = TableVersion(8);
  map.epoch = Epoch(3);
  map.replica_count = 2;
  map.nodes = {{"m0", "a", "h0:1", Incarnation(5)}, {"m1", "", "h1:1", Incarnation(0)}};
  map.owners = {NodeIndex(1), NodeIndex(0), NodeIndex(0), kNoNode};
  return map;
}

TEST(TableProtoTest, ShardMapComesBackEqual) {
  const auto back = ShardMapFromProto(ShardMapToProto(Map()), 2);
  ASSERT_TRUE(back.has_value()) << back.error().ToString();
  EXPECT_EQ(*back, Map());
}

TEST(TableProtoTest, ShardMapOfAnotherSlotCountIsMalformed) {
  const auto back = ShardMapFromProto(ShardMapToProto(Map()), 3);
  ASSERT_FALSE(back.has_value());
  EXPECT_EQ(back.error().code(), StatusCode::kMalformed);
}

TEST(TableProtoTest, ShardMapWithTooManyOwnersIsRefusedBeforeItIsCopied) {
  proto::ShardMap message = ShardMapToProto(Map());
  for (int i = 0; i < 100; ++i) message.add_owners(0);
  const auto back = ShardMapFromProto(message, 2);
  ASSERT_FALSE(back.has_value());
  EXPECT_THAT(back.error().message(), HasSubstr("ShardMap.owners has 104 entries, at most 6"));
}

TEST(TableProtoTest, ModelIdentityIs32Bytes) {
  ModelIdentity identity{};
  identity[0] = 1;
  identity[31] = 0xff;
  EXPECT_EQ(ModelIdentityFromBytes(ModelIdentityToBytes(identity)).value(), identity);
  EXPECT_FALSE(ModelIdentityFromBytes("").has_value());
  EXPECT_FALSE(ModelIdentityFromBytes(std::string(33, 'x')).has_value());
}

}  // namespace
}  // namespace engram
