#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/checkpoint/safetensors.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A file of `data_bytes` bytes of data after the header.
Result<std::vector<TensorInfo>> Parse(const std::string& header, uint64_t data_bytes) {
  return ParseSafetensorsHeader(header, 100, 100 + data_bytes, "m.safetensors");
}

std::string Fault(const std::string& header, uint64_t data_bytes) {
  const auto parsed = Parse(header, data_bytes);
  if (parsed.has_value()) return "accepted";
  EXPECT_EQ(parsed.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(parsed.error().message(), HasSubstr("m.safetensors"));
  return parsed.error().message();
}

TEST(SafetensorsHeaderTest, TensorsInAnyOrderAreRead) {
  const auto parsed = Parse(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"F8_E4M3","shape":[3,2],"data_offsets":[8,14]},
          "a":{"shape":[2],"data_offsets":[0,8],"dtype":"F32"},
          "empty":{"dtype":"BF16","shape":[0,7],"data_offsets":[8,8]},
          "scalar":{"dtype":"F16","shape":[],"data_offsets":[14,16]}}   )",
      16);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
  ASSERT_EQ(parsed->size(), 4u);
  const TensorInfo& b = (*parsed)[0];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, Dtype::kF8E4M3);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(b.file_offset, 108u);
  EXPECT_EQ(b.byte_count, 6u);
  EXPECT_EQ(b.file, "m.safetensors");
}

TEST(SafetensorsHeaderTest, OtherDtypesAreKnownBySizeOnly) {
  const auto parsed = Parse(R"({"i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},
                                "q":{"dtype":"F4","shape":[5],"data_offsets":[16,19]}})",
                            19);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
  EXPECT_EQ((*parsed)[0].dtype, Dtype::kOther);
  EXPECT_THAT(Fault(R"({"i":{"dtype":"I64","shape":[2],"data_offsets":[0,8]}})", 8),
              HasSubstr("expected 16 bytes, found data_offsets of 8"));
}

TEST(SafetensorsHeaderTest, OverlapIsRefused) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    12),
              AllOf(HasSubstr("tensor \"b\" overlaps"), HasSubstr("from 8, found 4")));
}

TEST(SafetensorsHeaderTest, HoleIsRefused) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                        "b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
                    16),
              HasSubstr("tensor \"b\" leaves a hole before it"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
              HasSubstr("hole"));
}

TEST(SafetensorsHeaderTest, BytesAfterTheLastTensorAreRefused) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9),
              HasSubstr("expected 108 bytes by its header, found 109"));
  EXPECT_THAT(Fault("{}", 1), HasSubstr("expected 100 bytes by its header, found 101"));
}

TEST(SafetensorsHeaderTest, OffsetsPastTheFileAreRefusedAsTruncated) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7),
              AllOf(HasSubstr("tensor \"a\" ends at byte 8"), HasSubstr("7 bytes of data"),
                    HasSubstr("truncated")));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,
                        18446744073709551615]}})",
                    8),
              HasSubstr("truncated"));
}

TEST(SafetensorsHeaderTest, SizeThatIsNotShapeTimesDtypeIsRefused) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"BF16","shape":[3,5],"data_offsets":[0,8]}})", 8),
              AllOf(HasSubstr("dtype BF16 and shape [3, 5]"), HasSubstr("expected 30 bytes"),
                    HasSubstr("of 8")));
}

TEST(SafetensorsHeaderTest, ShapeThatOverflowsIsRefused) {
  EXPECT_THAT(
      Fault(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
      HasSubstr("more than any file"));
  EXPECT_THAT(
      Fault(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0),
      HasSubstr("more than any file"));
  EXPECT_THAT(
      Fault(R"({"a":{"dtype":"F4","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0),
      HasSubstr("more than any file"));
}

TEST(SafetensorsHeaderTest, TensorOrKeyTwiceIsRefused) {
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                        "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                    2),
              HasSubstr("tensor \"a\" stands twice"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("has dtype twice"));
  EXPECT_THAT(Fault(R"({"__metadata__":{"x":"1","x":"2"}})", 0), HasSubstr("twice"));
}

TEST(SafetensorsHeaderTest, WrongJsonIsRefusedWithItsPlace) {
  EXPECT_THAT(Fault("", 0), HasSubstr("not JSON"));
  EXPECT_THAT(Fault("{\"a\":", 0), HasSubstr("not JSON"));
  EXPECT_THAT(Fault("{} x", 0), HasSubstr("not JSON"));
  EXPECT_THAT(Fault("[]", 0), HasSubstr("expected an object"));
  EXPECT_THAT(Fault("7", 0), HasSubstr("expected an object"));
  EXPECT_THAT(Fault(R"({"a":5})", 0), HasSubstr("the value of \"a\" is a number"));
  EXPECT_THAT(Fault(R"({"a":{}})", 0), HasSubstr("tensor \"a\" has no dtype"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1]}})", 0), HasSubstr("no data_offsets"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", 0), HasSubstr("no shape"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 0),
              HasSubstr("two numbers"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", 1),
              HasSubstr("more than 2 numbers"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1),
              HasSubstr("negative number -1"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1),
              HasSubstr("1.5"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1),
              HasSubstr("a list"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1),
              HasSubstr("after its end"));
  EXPECT_THAT(Fault(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1),
              HasSubstr("unknown key \"x\""));
  EXPECT_THAT(Fault(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("empty name"));
  EXPECT_THAT(Fault(R"({"__metadata__":{"x":{}}})", 0), HasSubstr("__metadata__"));
}

TEST(SafetensorsHeaderTest, HeaderPastTheFileIsTruncated) {
  const auto parsed = ParseSafetensorsHeader("{}", 100, 50, "m.safetensors");
  ASSERT_FALSE(parsed.has_value());
  EXPECT_THAT(parsed.error().message(), HasSubstr("truncated"));
}

TEST(SafetensorsHeaderTest, LongNamesAreCutInMessages) {
  const std::string name(5000, 'n');
  const std::string fault = Fault("{\"" + name + "\":7}", 0);
  EXPECT_LT(fault.size(), 500u);
}

}  // namespace
}  // namespace engram
