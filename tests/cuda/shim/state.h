// What the parts of the runtime share: the launch that is under way, its threads and warps, the memory it may touch.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct uint3 { unsigned x, y, z; };
extern "C" {
struct ShimPlace { uint3 thread, block, threads, blocks; } shim_place;
extern const int shim_checked;
}

namespace {

enum Kind {
  NONE, BOUNDS, MISALIGNED, READ_ONLY, UNWRITTEN, RACE_WARP, RACE_BLOCK, RACE_GRID, IN_FLIGHT, NEVER_WAITED,
  DIVERGENT_BARRIER, THREAD_GONE, PARTIAL_WARP, SHARED_BYTES
};
enum State : uint8_t { READY, AT_BARRIER, AT_WARP, DONE };

constexpr int THREADS = 1024, LANES = 32, MANY = 32, REGIONS = 4096;
constexpr int SHARED_MOST = 227 << 10, SHARED_ROOM = 16 << 20, REDZONE = 128 << 10;  // an array is far from the next
constexpr size_t STACK = 64 << 10, STRIDE = STACK + 832;  // not a power of two: stacks would share cache sets
constexpr uint32_t POISON = 0xffdeadbe;                   // a word of global memory that nobody has written

struct Copy { char *to; const char *from; int bytes, live, group, line; };
struct Thread {
  void *sp;
  State state;
  int line, groups;  // groups of copies closed so far
  Copy *copies;
  int first, last, room;  // of `copies`
};
struct Warp {
  int arrived, line;
  uint32_t time;
  void (*all)(void **);
  void *lanes[LANES];
};

enum Flag : uint8_t { OTHER_WARPS = 1, OTHER_BLOCKS = 2, FLYING = 4 };
struct Cell {  // of an element; epochs are 0 for never
  uint32_t wrote, wrote_time, read, read_time;
  uint16_t writer;
  uint8_t reader_warp, reader_lane, flags;  // reader_lane MANY: several of that warp
};
struct Region {
  uintptr_t base, end;
  int grain, read_only, shared, index, line;
  const char *name;
  Cell *cells;
};
struct Argument { uint64_t base, bytes; int32_t grain, read_only, index, pad; };

struct Fault {
  int32_t kind, thread, region, other, line, shared;
  uint64_t pc, offset;
  uint32_t block[3];
  char name[64];
} fault;

Thread threads[THREADS];
Warp warps[THREADS / LANES];
Region regions[REGIONS];  // first the arguments in order of address, then shared arrays
int region_count, global_count, thread_count, current = -1, dynamic_bytes, shared_used, shared_sum;
uint32_t epoch, block_first;
void *main_sp, **entry_arguments;
void (*entry)(void **);
char *shared_memory, *stacks;

// To the scheduler, with a mistake that ends the launch.
[[noreturn]] void fail(Kind kind, uint64_t pc = 0, int line = 0, const Region *r = 0, uint64_t offset = 0,
                       int other = -1);

}  // namespace
