// A report's file: refused with a reason, or drawn, and its texts never become markup. Likewise a
// comparison's, of which a report is made.
#include <cstdint>
#include <string>
#include <string_view>

#include "bench/offload_figures.h"
#include "bench/report_page.h"
#include "engram/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto run = engram::bench::ParseOffloadRun(text); run.has_value()) {
    ENGRAM_CHECK(!engram::bench::OffloadTables({*run}).empty());
    ENGRAM_CHECK(!engram::bench::OffloadPlots({*run}).empty());
  } else {
    ENGRAM_CHECK(!run.error().message().empty());
  }
  const auto report = engram::bench::ParseReport(text);
  if (!report.has_value()) {
    ENGRAM_CHECK(!report.error().message().empty());
    return 0;
  }
  // Beside itself: plots of two runs come together.
  for (const auto& page :
       {engram::bench::MakePage({*report}), engram::bench::MakePage({*report, *report})}) {
    ENGRAM_CHECK(page.ends_with("</html>\n"));
    ENGRAM_CHECK(page.find("<script") == std::string::npos);
    ENGRAM_CHECK(page.find("=\"nan") == std::string::npos);
  }
  return 0;
}
