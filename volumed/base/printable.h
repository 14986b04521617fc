// Outside text as one line that a terminal or a log shows and does not obey.
//
// Threading: any thread; pure. C0 and C1 control characters, DEL and bytes that are no UTF-8 become
// "\n", "\t" or "\x1b", a byte each; all else stays.
#pragma once

#include <string>
#include <string_view>

namespace cvol {

std::string printable(std::string_view text);
bool is_printable(std::string_view text);

}  // namespace cvol
