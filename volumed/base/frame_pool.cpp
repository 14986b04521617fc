#include "volumed/base/frame_pool.h"

#include <new>

namespace cvol {
namespace {

constexpr std::size_t kClassBytes = 128;
constexpr std::size_t kClasses = 32;  // frames up to 4 KiB
constexpr std::size_t kMostFreePerClass = 512;

// Under asan every frame must be seen to come and go.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooled = false;
#elif defined(__has_feature)
constexpr bool kPooled = !__has_feature(address_sanitizer);
#else
constexpr bool kPooled = true;
#endif

struct FreeFrame {
  FreeFrame* next;
};

struct Lists {
  FreeFrame* head[kClasses] = {};
  std::size_t count[kClasses] = {};
  ~Lists() {
    for (FreeFrame*& list : head) {
      while (list != nullptr) {
        FreeFrame* next = list->next;
        ::operator delete(list);
        list = next;
      }
    }
  }
};

thread_local Lists lists;

std::size_t class_of(std::size_t size) {
  return (size + kClassBytes - 1) / kClassBytes;
}

}  // namespace

void* frame_allocate(std::size_t size) {
  const std::size_t index = class_of(size);
  if (kPooled && index < kClasses && lists.head[index] != nullptr) {
    FreeFrame* frame = lists.head[index];
    lists.head[index] = frame->next;
    --lists.count[index];
    return frame;
  }
  return ::operator new(index* kClassBytes);
}

void frame_free(void* frame, std::size_t size) {
  const std::size_t index = class_of(size);
  if (kPooled && index < kClasses && lists.count[index] < kMostFreePerClass) {
    auto* node = static_cast<FreeFrame*>(frame);
    node->next = lists.head[index];
    lists.head[index] = node;
    ++lists.count[index];
    return;
  }
  ::operator delete(frame);
}

}  // namespace cvol
