// Memory of coroutine frames: free lists per thread and size class, so that the data path does not
// go through malloc. A frame is freed on the thread that allocated it or on any other; it then
// simply moves to that thread's list.
#pragma once

#include <cstddef>

namespace cvol {

void* frame_allocate(std::size_t size);
void frame_free(void* frame, std::size_t size);

}  // namespace cvol
