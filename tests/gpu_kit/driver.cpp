// A CUDA driver without a GPU, for rehearsals with the real pycuda: each stream is a thread, memory
// is the host's, and the only kernel is that of kernels.cu. Calls that need a context refuse where
// the thread has none. Built by driver.py.
#include <cuda.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Time = std::chrono::steady_clock::time_point;
const size_t kTotal = 4ull << 30;
const size_t kPage = 4096;
char context_mark;  // its address is the primary context
CUcontext const kContext = reinterpret_cast<CUcontext>(&context_mark);
thread_local std::vector<CUcontext> stack;

struct Moment {
    std::mutex lock;
    std::condition_variable came;
    bool done = false;
    Time time;
    void wait() {
        std::unique_lock<std::mutex> held(lock);
        came.wait(held, [this] { return done; });
    }
    void set() {
        std::lock_guard<std::mutex> held(lock);
        time = std::chrono::steady_clock::now();
        done = true;
        came.notify_all();
    }
};
using MomentPtr = std::shared_ptr<Moment>;

struct Stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    bool closing = false;
    std::thread thread{[this] { run(); }};

    void run() {
        for (;;) {
            std::unique_lock<std::mutex> held(lock);
            changed.wait(held, [this] { return closing || !work.empty(); });
            if (work.empty()) return;
            auto next = std::move(work.front());
            work.pop_front();
            held.unlock();
            next();
        }
    }
    void add(std::function<void()> next) {
        std::lock_guard<std::mutex> held(lock);
        work.push_back(std::move(next));
        changed.notify_all();
    }
    MomentPtr mark() {
        auto moment = std::make_shared<Moment>();
        add([moment] { moment->set(); });
        return moment;
    }
    ~Stream() {
        {
            std::lock_guard<std::mutex> held(lock);
            closing = true;
            changed.notify_all();
        }
        thread.join();
    }
};

struct Event {
    std::mutex lock;
    MomentPtr moment;
    MomentPtr latest() {
        std::lock_guard<std::mutex> held(lock);
        return moment;
    }
};

std::mutex lock;
std::vector<Stream *> streams;
std::map<CUdeviceptr, size_t> sizes;
size_t used = 0;

Stream *stream_of(CUstream handle) {
    static Stream *legacy = new Stream;  // never ended: work may be left at exit
    return handle ? reinterpret_cast<Stream *>(handle) : legacy;
}
void finish_all() {
    std::vector<MomentPtr> marks{stream_of(nullptr)->mark()};
    {
        std::lock_guard<std::mutex> held(lock);
        for (auto stream : streams) marks.push_back(stream->mark());
    }
    for (auto &mark : marks) mark->wait();
}
CUresult reserve(CUdeviceptr *place, size_t nbytes, bool counted) {
    std::lock_guard<std::mutex> held(lock);
    if (counted && used + nbytes > kTotal) return CUDA_ERROR_OUT_OF_MEMORY;
    void *memory = std::aligned_alloc(kPage, (nbytes + kPage - 1) / kPage * kPage);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(memory, 0xA5, nbytes);
    *place = reinterpret_cast<CUdeviceptr>(memory);
    sizes[*place] = counted ? nbytes : 0;
    used += counted ? nbytes : 0;
    return CUDA_SUCCESS;
}
CUresult release(CUdeviceptr place) {
    finish_all();
    std::lock_guard<std::mutex> held(lock);
    auto found = sizes.find(place);
    if (found == sizes.end()) return CUDA_ERROR_INVALID_VALUE;
    used -= found->second;
    sizes.erase(found);
    std::free(reinterpret_cast<void *>(place));
    return CUDA_SUCCESS;
}

struct Mix {
    const unsigned *source, *weights;
    unsigned *target;
    int rows, words;
    unsigned long long wait_ns;
};
void mix(const Mix &given) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(given.wait_ns));
    for (int word = 0; word < given.words; word++) given.target[word] = given.source[word];
    for (int row = 0; row < given.rows; row++)
        for (int word = 0; word < given.words; word++)
            given.target[word] = (given.target[word] * 1664525u + 1013904223u) ^
                                 given.weights[size_t(row) * given.words + word];
}

}  // namespace

#define NEEDS_CONTEXT \
    if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    return std::strncpy(name, "driver without a GPU", length), CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice) {
    return *major = 9, *minor = 0, CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem_v2(size_t *total, CUdevice) { return *total = kTotal, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    default: *value = 1;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    return *context = kContext, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext context) { return stack.push_back(context), CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    NEEDS_CONTEXT;
    if (context) *context = stack.back();
    return stack.pop_back(), CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) {
    NEEDS_CONTEXT;
    return *device = 0, CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
    NEEDS_CONTEXT;
    return finish_all(), CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_INVALID_CONTEXT ? "invalid device context" : "refused";
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *handle, unsigned) {
    NEEDS_CONTEXT;
    auto stream = new Stream;
    std::lock_guard<std::mutex> held(lock);
    streams.push_back(stream);
    return *handle = reinterpret_cast<CUstream>(stream), CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream handle) {
    NEEDS_CONTEXT;
    auto stream = stream_of(handle);
    {
        std::lock_guard<std::mutex> held(lock);
        std::erase(streams, stream);
    }
    return delete stream, CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream handle) {
    NEEDS_CONTEXT;
    return stream_of(handle)->mark()->wait(), CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    NEEDS_CONTEXT;
    auto moment = reinterpret_cast<Event *>(event)->latest();
    if (moment) stream_of(handle)->add([moment] { moment->wait(); });
    return CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned) {
    NEEDS_CONTEXT;
    return *event = reinterpret_cast<CUevent>(new Event), CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
    NEEDS_CONTEXT;
    return delete reinterpret_cast<Event *>(event), CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent handle, CUstream stream) {
    NEEDS_CONTEXT;
    auto event = reinterpret_cast<Event *>(handle);
    std::lock_guard<std::mutex> held(event->lock);
    return event->moment = stream_of(stream)->mark(), CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent handle) {
    NEEDS_CONTEXT;
    if (auto moment = reinterpret_cast<Event *>(handle)->latest()) moment->wait();
    return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float *ms, CUevent start, CUevent end) {
    NEEDS_CONTEXT;
    auto first = reinterpret_cast<Event *>(start)->latest();
    auto last = reinterpret_cast<Event *>(end)->latest();
    if (!first || !last) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->done || !last->done) return CUDA_ERROR_NOT_READY;
    std::chrono::duration<float, std::milli> gap = last->time - first->time;
    return *ms = gap.count(), CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    NEEDS_CONTEXT;
    std::lock_guard<std::mutex> held(lock);
    return *free = kTotal - used, *total = kTotal, CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr *place, size_t nbytes) {
    NEEDS_CONTEXT;
    return reserve(place, nbytes, true);
}
CUresult cuMemAllocManaged(CUdeviceptr *place, size_t nbytes, unsigned) {
    NEEDS_CONTEXT;
    return reserve(place, nbytes, true);
}
CUresult cuMemHostAlloc(void **place, size_t nbytes, unsigned) {
    NEEDS_CONTEXT;
    return reserve(reinterpret_cast<CUdeviceptr *>(place), nbytes, false);
}
CUresult cuMemFree_v2(CUdeviceptr place) {
    NEEDS_CONTEXT;
    return release(place);
}
CUresult cuMemFreeHost(void *place) {
    NEEDS_CONTEXT;
    return release(reinterpret_cast<CUdeviceptr>(place));
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *place, void *memory, unsigned) {
    NEEDS_CONTEXT;
    return *place = reinterpret_cast<CUdeviceptr>(memory), CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t nbytes, CUstream stream) {
    NEEDS_CONTEXT;
    auto target = reinterpret_cast<void *>(to);
    stream_of(stream)->add([=] { std::memmove(target, from, nbytes); });
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t nbytes, CUstream stream) {
    NEEDS_CONTEXT;
    auto source = reinterpret_cast<void *>(from);
    stream_of(stream)->add([=] { std::memmove(to, source, nbytes); });
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t count, CUstream stream) {
    NEEDS_CONTEXT;
    auto target = reinterpret_cast<void *>(to);
    stream_of(stream)->add([=] { std::memset(target, byte, count); });
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, CUjit_option *, void **) {
    NEEDS_CONTEXT;
    if (std::memcmp(image, "\177ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    return *module = reinterpret_cast<CUmodule>(&context_mark), CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}
CUresult cuModuleUnload(CUmodule) {
    NEEDS_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
    NEEDS_CONTEXT;
    if (std::strcmp(name, "mix")) return CUDA_ERROR_NOT_FOUND;
    return *function = reinterpret_cast<CUfunction>(&context_mark), CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction, unsigned grid, unsigned, unsigned, unsigned block, unsigned,
                        unsigned, unsigned, CUstream stream, void **params, void **extra) {
    NEEDS_CONTEXT;
    if (params || !extra || extra[0] != CU_LAUNCH_PARAM_BUFFER_POINTER ||
        *static_cast<size_t *>(extra[3]) != sizeof(Mix))
        return CUDA_ERROR_INVALID_VALUE;
    Mix given;
    std::memcpy(&given, extra[1], sizeof given);
    if (grid * block < unsigned(given.words)) return CUDA_ERROR_INVALID_VALUE;
    stream_of(stream)->add([given] { mix(given); });
    return CUDA_SUCCESS;
}
}
