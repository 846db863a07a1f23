#include "engram/metrics/family_writer.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "engram/metrics/process_metrics.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST(FamilyWriterTest, SamplesOfOneNameAreOneFamily) {
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter out(&families);
  out.Counter("engram_a_total", "A.", 1, {{"side", "left"}});
  out.Counter("engram_a_total", "A.", 2, {{"side", "right"}});
  out.TimeCounter("engram_b_seconds_total", "B.", 1'500'000'000);
  out.Gauge("engram_c", "C.", 7);
  ASSERT_EQ(families.size(), 3u);
  EXPECT_EQ(prometheus::TextSerializer().Serialize(families),
            "# HELP engram_a_total A.\n"
            "# TYPE engram_a_total counter\n"
            "engram_a_total{side=\"left\"} 1\n"
            "engram_a_total{side=\"right\"} 2\n"
            "# HELP engram_b_seconds_total B.\n"
            "# TYPE engram_b_seconds_total counter\n"
            "engram_b_seconds_total 1.5\n"
            "# HELP engram_c C.\n"
            "# TYPE engram_c gauge\n"
            "engram_c 7\n");
}

TEST(FamilyWriterTest, HistogramBucketsAreCumulativeAndInSeconds) {
  TimeBuckets times;
  times.Add(5'000);
  times.Add(15'000);
  times.Add(3'000'000'000);
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter(&families).Histogram("engram_d_seconds", "D.", times, {{"layer", "1"}});
  const std::string text = prometheus::TextSerializer().Serialize(families);
  EXPECT_THAT(text, HasSubstr("# TYPE engram_d_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_bucket{layer=\"1\",le=\"5e-06\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_bucket{layer=\"1\",le=\"1e-05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_bucket{layer=\"1\",le=\"2e-05\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_bucket{layer=\"1\",le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_bucket{layer=\"1\",le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_count{layer=\"1\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_d_seconds_sum{layer=\"1\"} 3.00002\n"));
}

TEST(ProcessMetricsTest, ThisProcessHasMemoryAndOpenFiles) {
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter out(&families);
  WriteProcessMetrics(&out);
  ASSERT_EQ(families.size(), 6u);
  for (const prometheus::MetricFamily& family : families) {
    ASSERT_EQ(family.metric.size(), 1u);
    if (family.type == prometheus::MetricType::Gauge) {
      EXPECT_GT(family.metric[0].gauge.value, 0) << family.name;
    }
  }
}

}  // namespace
}  // namespace engram
