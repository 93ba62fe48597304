// Runs a kernel on a CPU, block after block, and checks it. Every thread of a block is a fiber. In a phase, the time
// between two barriers, warp runs after warp, and in a warp lane after lane until each waits or ends; the order is
// chosen at the launch. A warp operation is done when its 32nd lane has come. An asynchronous copy is made when it is
// waited for, the latest moment that the language allows. The first mistake ends the launch, before the access is made.

// After state.h, traffic.h and checker.h, with which build.py makes one text of it.

namespace {

// ---- fibers ----

extern "C" void shim_switch(void **from, void *to) __asm__("shim_switch");
#if defined(__x86_64__)
__asm__(".text\n.globl shim_switch\nshim_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\npop %rcx\njmp *%rcx\n");
constexpr int RETURN = 6, TOP = 8;  // a `ret` would be mispredicted every time
#elif defined(__aarch64__)
__asm__(".text\n.globl shim_switch\nshim_switch:\n"
        "sub sp, sp, #160\nstp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\nstp d8, d9, [sp, #96]\n"
        "stp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
        "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
        "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\nldp d8, d9, [sp, #96]\n"
        "ldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\nmov x9, x30\nbr x9\n");
constexpr int RETURN = 11, TOP = 20;
#else
#error "the shim switches fibers on x86-64 and aarch64 alone"
#endif

// To the scheduler. It and `resume` are inlined, so that switches are jumps alone, and no return is mispredicted.
__attribute__((always_inline)) inline void leave() {
  shim_switch(&threads[current].sp, main_sp);
}

[[noreturn]] void fail(Kind kind, uint64_t pc, int line, const Region *r, uint64_t offset, int other) {
  fault = {kind, current, r ? r->index : -1, other, line, r ? r->shared : 0, pc, offset, {}, {}};
  fault.block[0] = shim_place.block.x, fault.block[1] = shim_place.block.y, fault.block[2] = shim_place.block.z;
  if (r && r->name) strncpy(fault.name, r->name, sizeof fault.name - 1);
  void *gone;
  shim_switch(&gone, main_sp);
  __builtin_unreachable();
}

// ---- the scheduler ----

uint64_t random_state;
int order_kind;
unsigned random_below(unsigned n) {
  random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
  return (random_state >> 33) % n;
}
void fill_order(unsigned *order, unsigned n) {
  for (unsigned i = 0; i < n; i++) order[i] = order_kind == 1 ? n - 1 - i : i;
  if (order_kind < 2) return;
  for (unsigned i = n; i > 1; i--) {
    unsigned k = random_below(i), held = order[k];
    order[k] = order[i - 1], order[i - 1] = held;
  }
}

void start() {
  entry(entry_arguments);
  Thread &t = threads[current];
  if (t.first < t.last) fail(NEVER_WAITED, 0, t.copies[t.first].line);
  t.state = DONE;
  leave();
}

__attribute__((always_inline)) inline bool resume(int t) {  // false where the launch is over
  shim_place.thread.x = t;
  current = t;
  shim_switch(&main_sp, threads[t].sp);
  current = -1;
  return fault.kind == NONE;
}

int refuse(Kind kind, int thread, int other) {
  fault = {kind, thread, -1, other, threads[thread].line, 0, 0, 0, {}, {}};
  fault.block[0] = shim_place.block.x, fault.block[1] = shim_place.block.y, fault.block[2] = shim_place.block.z;
  return 0;
}

bool phase() {  // until all wait at the barrier or have ended
  unsigned warp_order[THREADS / LANES], lane_order[LANES];
  fill_order(warp_order, thread_count / LANES);
  for (int i = 0; i < thread_count / LANES; i++) {
    int first = warp_order[i] * LANES;
    fill_order(lane_order, LANES);
    for (bool moved = true; moved;) {
      moved = false;
      for (unsigned lane : lane_order)
        if (threads[first + lane].state == READY) {
          if (!resume(first + lane)) return false;
          moved = true;
        }
    }
    for (int t = first, gone = -1; t < first + LANES; t++) {
      if (threads[t].state == AT_WARP) return refuse(PARTIAL_WARP, t, gone);
      gone = t;
    }
  }
  int waiting = -1, ended = -1;
  for (int t = 0; t < thread_count; t++) {
    if (threads[t].state == DONE) { ended = t; continue; }
    if (waiting >= 0 && threads[t].line != threads[waiting].line) return refuse(DIVERGENT_BARRIER, t, waiting);
    waiting = t;
  }
  if (waiting >= 0 && ended >= 0) return refuse(THREAD_GONE, waiting, ended);
  return true;
}

bool run_block() {
  block_first = ++epoch;
  for (Region *r = regions + global_count; r < regions + region_count; r++)
    memset((void *)r->base, 0xff, r->end - r->base);
  for (int t = 0; t < thread_count; t++) {
    void **top = (void **)((uintptr_t)(stacks + t * STRIDE + STACK - 64) & ~15ull);
    top -= TOP;  // x86-64 enters a function with the stack 8 bytes off
    threads[t].sp = top;
    top[RETURN] = (void *)start;
    threads[t].state = READY;
    threads[t].groups = threads[t].first = threads[t].last = 0;
  }
  for (int w = 0; w < thread_count / LANES; w++) warps[w].arrived = 0;
  for (;; epoch++) {
    if (!phase()) return false;
    if (threads[0].state == DONE) return true;
    for (int t = 0; t < thread_count; t++) threads[t].state = READY;
  }
}

}  // namespace

// ---- what kernels call ----

extern "C" void shim_barrier(int line) {
  threads[current].line = line;
  threads[current].state = AT_BARRIER;
  leave();
}

extern "C" void shim_collective(void (*all)(void **), void *mine, unsigned mask, int line) {
  Warp &w = warps[current / LANES];
  if (mask != 0xffffffffu || (w.arrived && (w.all != all || w.line != line))) fail(PARTIAL_WARP, 0, line);
  w.all = all, w.line = line;
  w.lanes[current % LANES] = mine;
  if (++w.arrived < LANES) {
    threads[current].line = line;
    threads[current].state = AT_WARP;
    return leave();
  }
  w.arrived = 0;
  if (all) all(w.lanes);
  else w.time++;
  for (int t = current / LANES * LANES, end = t + LANES; t < end; t++) threads[t].state = READY;
}

extern "C" void *shim_shared(const char *name, unsigned long bytes, int element, int dynamic, int line) {
  for (int i = global_count; i < region_count; i++)
    if (regions[i].line == line && !strcmp(regions[i].name, name)) return (void *)regions[i].base;
  int start = (shared_used + 127) & ~127;
  if (dynamic && (int)bytes > dynamic_bytes) fail(SHARED_BYTES, 0, line, 0, bytes);
  bool room = start + bytes + REDZONE <= SHARED_ROOM && region_count < REGIONS;
  if (!room || (shared_sum += bytes) > SHARED_MOST) fail(SHARED_BYTES, 0, line, 0, bytes);
  uintptr_t base = (uintptr_t)shared_memory + start;
  shared_used = start + bytes + REDZONE;
  Cell *cells = shim_checked ? (Cell *)calloc(bytes / element + 1, sizeof(Cell)) : 0;
  regions[region_count++] = {base, base + bytes, element, 0, 1, -1, line, name, cells};
  memset((void *)base, 0xff, bytes);
  return (void *)base;
}

extern "C" void shim_access(const void *at, int bytes, int write, int line) {
  check((uintptr_t)at, bytes, write, true, 0, line);
}

extern "C" void shim_copy(void *to, const void *from, int bytes, int live, int line) {
  Thread &t = threads[current];
  if (shim_checked) {
    int held = counting;
    uintptr_t at = (uintptr_t)from;
    if (live) check(at, bytes, false, true, 0, line);
    else if (!find(at)) fail(BOUNDS, 0, line, before(at), at - before(at)->base);
    counting = 0;
    check((uintptr_t)to, bytes, true, true, 0, line);
    counting = held;
    set_flying((char *)to, bytes, true);
  }
  memset(to, 0xff, bytes);
  if (t.first == t.last) t.first = t.last = 0;
  if (t.last == t.room) t.copies = (Copy *)realloc(t.copies, (t.room = t.room * 2 + 16) * sizeof(Copy));
  t.copies[t.last++] = {(char *)to, (const char *)from, bytes, live, t.groups, line};
}

extern "C" void shim_commit() { threads[current].groups++; }

extern "C" void shim_wait(int pending, int line) {
  Thread &t = threads[current];
  for (; t.first < t.last && t.copies[t.first].group < t.groups - pending; t.first++) {
    Copy &c = t.copies[t.first];
    if (shim_checked) {
      int held = counting;
      counting = 0;
      set_flying(c.to, c.bytes, false);
      check((uintptr_t)c.to, c.bytes, true, true, 0, line);
      counting = held;
    }
    if (c.live) memcpy(c.to, c.from, c.bytes);
    else memset(c.to, 0, c.bytes);
  }
}

// ---- the compiler's hooks ----

#define PC (uint64_t)__builtin_return_address(0)
#define HOOK(bytes) \
  extern "C" void __tsan_read##bytes(void *at) { check((uintptr_t)at, bytes, false, true, PC, 0); } \
  extern "C" void __tsan_write##bytes(void *at) { check((uintptr_t)at, bytes, true, true, PC, 0); } \
  extern "C" void __tsan_unaligned_read##bytes(void *at) { check((uintptr_t)at, bytes, false, false, PC, 0); } \
  extern "C" void __tsan_unaligned_write##bytes(void *at) { check((uintptr_t)at, bytes, true, false, PC, 0); } \
  extern "C" void __tsan_read##bytes##_pc(void *at, void *) { check((uintptr_t)at, bytes, false, true, PC, 0); }
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
extern "C" void __tsan_read_range(void *at, long n) { check((uintptr_t)at, n, false, false, PC, 0); }
extern "C" void __tsan_write_range(void *at, long n) { check((uintptr_t)at, n, true, false, PC, 0); }
extern "C" void *__tsan_memset(void *at, int v, unsigned long n) {
  check((uintptr_t)at, n, true, false, PC, 0);
  return memset(at, v, n);
}
extern "C" void *__tsan_memcpy(void *to, const void *from, unsigned long n) {
  check((uintptr_t)from, n, false, false, PC, 0);
  check((uintptr_t)to, n, true, false, PC, 0);
  return memcpy(to, from, n);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}

// ---- what Python calls ----

EXPORT uint64_t shim_workspace() { return SHARED_ROOM + THREADS * STRIDE; }  // bytes, of a page of memory

EXPORT int shim_launch(void (*kernel)(void **), void **with, const Argument *arguments, int count, const unsigned *grid,
                       int size, int dynamic, int order, uint64_t seed, int count_traffic, char *workspace) {
  shared_memory = workspace, stacks = workspace + SHARED_ROOM;
  entry = kernel, entry_arguments = with;
  thread_count = size, dynamic_bytes = dynamic, order_kind = order, random_state = seed, counting = count_traffic;
  epoch = 0, shared_used = shared_sum = 0, region_count = 0, trace_count = traffic_count = 0;
  fault.kind = NONE;
  for (int i = 0; i < count; i++) {
    const Argument &a = arguments[i];
    Cell *cells = shim_checked ? (Cell *)calloc(a.bytes / a.grain + 1, sizeof(Cell)) : 0;
    regions[region_count++] = {a.base, a.base + a.bytes, a.grain, a.read_only, 0, a.index, 0, 0, cells};
  }
  global_count = region_count;
  shim_place.threads = {(unsigned)size, 1, 1};
  shim_place.blocks = {grid[0], grid[1], grid[2]};
  unsigned blocks = grid[0] * grid[1] * grid[2];
  unsigned *block_order = (unsigned *)malloc(blocks * sizeof(unsigned));
  fill_order(block_order, blocks);
  for (unsigned i = 0; i < blocks; i++) {
    unsigned b = block_order[i];
    shim_place.block = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    if (!run_block()) break;
    if (counting) count_block();
  }
  current = -1;
  free(block_order);
  for (int i = 0; i < region_count; i++) free(regions[i].cells);
  return fault.kind;
}

EXPORT const Fault *shim_fault() { return &fault; }
EXPORT const Traffic *shim_traffic(uint64_t *count) {
  *count = traffic_count;
  return traffic;
}
#if defined(__ELF__)
EXPORT uint64_t shim_base() { return (uint64_t)&__ehdr_start; }
#else
EXPORT uint64_t shim_base() { return 0; }  // lines are found in ELF files alone
#endif
