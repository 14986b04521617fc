#include "volumed/base/frame_pool.h"

#include <new>

namespace cvol {
namespace {

constexpr std::size_t kClassBytes = 128;
constexpr std::size_t kClasses = 32;  // frames up to 4 KiB
constexpr std::size_t kMostFreePerClass = 512;

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
#if !defined(__SANITIZE_ADDRESS__)  // asan must see every frame come and go
  if (index < kClasses && lists.head[index] != nullptr) {
    FreeFrame* frame = lists.head[index];
    lists.head[index] = frame->next;
    --lists.count[index];
    return frame;
  }
#endif
  return ::operator new(index* kClassBytes);
}

void frame_free(void* frame, std::size_t size) {
  const std::size_t index = class_of(size);
#if !defined(__SANITIZE_ADDRESS__)
  if (index < kClasses && lists.count[index] < kMostFreePerClass) {
    auto* node = static_cast<FreeFrame*>(frame);
    node->next = lists.head[index];
    lists.head[index] = node;
    ++lists.count[index];
    return;
  }
#endif
  ::operator delete(frame);
}

}  // namespace cvol
