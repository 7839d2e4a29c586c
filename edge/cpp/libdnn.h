// libdnn, the C library that runs programs on the BPU: the board's own headers, or, on a PC that compiles for
// the board without them, the part of its interface that is used here.
#pragma once

#if __has_include(<dnn/hb_dnn.h>)
#include <dnn/hb_dnn.h>
#include <dnn/hb_sys.h>
#else

#include <cstdint>

extern "C" {

using hbPackedDNNHandle_t = void*;
using hbDNNHandle_t = void*;
using hbDNNTaskHandle_t = void*;

enum hbDNNDataType {
  HB_DNN_IMG_TYPE_Y,
  HB_DNN_IMG_TYPE_NV12,
  HB_DNN_IMG_TYPE_NV12_SEPARATE,
  HB_DNN_IMG_TYPE_YUV444,
  HB_DNN_IMG_TYPE_RGB,
  HB_DNN_IMG_TYPE_BGR,
  HB_DNN_TENSOR_TYPE_S4,
  HB_DNN_TENSOR_TYPE_U4,
  HB_DNN_TENSOR_TYPE_S8,
  HB_DNN_TENSOR_TYPE_U8,
  HB_DNN_TENSOR_TYPE_F16,
  HB_DNN_TENSOR_TYPE_S16,
  HB_DNN_TENSOR_TYPE_U16,
  HB_DNN_TENSOR_TYPE_F32,
  HB_DNN_TENSOR_TYPE_S32,
  HB_DNN_TENSOR_TYPE_U32,
};

enum hbDNNQuantiType { NONE, SHIFT, SCALE };

enum hbSysMemFlushFlag { HB_SYS_MEM_CACHE_INVALIDATE = 1, HB_SYS_MEM_CACHE_CLEAN = 2 };

struct hbDNNTensorShape {
  std::int32_t dimensionSize[8];
  std::int32_t numDimensions;
};

struct hbDNNQuantiShift {
  std::int32_t shiftLen;
  std::uint8_t* shiftData;
};

struct hbDNNQuantiScale {
  std::int32_t scaleLen;
  float* scaleData;
  std::int32_t zeroPointLen;
  std::int8_t* zeroPointData;
};

struct hbDNNTensorProperties {
  hbDNNTensorShape validShape;
  hbDNNTensorShape alignedShape;
  std::int32_t tensorLayout;
  std::int32_t tensorType;  // hbDNNDataType
  hbDNNQuantiShift shift;
  hbDNNQuantiScale scale;
  hbDNNQuantiType quantiType;
  std::int32_t quantizeAxis;
  std::int32_t alignedByteSize;
  std::int32_t stride[8];  // bytes
};

struct hbSysMem {
  std::uint64_t phyAddr;
  void* virAddr;
  std::uint32_t memSize;
};

struct hbDNNTensor {
  hbSysMem sysMem[4];
  hbDNNTensorProperties properties;
};

struct hbDNNInferCtrlParam {
  std::int32_t bpuCoreId;  // 0: any
  std::int32_t dspCoreId;
  std::int32_t priority;  // 0: lowest, 255: highest
  std::int32_t more;
  std::int64_t customId;
  std::int32_t reserved1;
  std::int32_t reserved2;
};

// All return 0, or a negative code.
std::int32_t hbDNNInitializeFromFiles(hbPackedDNNHandle_t*, const char** files, std::int32_t count);
std::int32_t hbDNNRelease(hbPackedDNNHandle_t);
std::int32_t hbDNNGetModelNameList(const char*** names, std::int32_t* count, hbPackedDNNHandle_t);
std::int32_t hbDNNGetModelHandle(hbDNNHandle_t*, hbPackedDNNHandle_t, const char* name);
std::int32_t hbDNNGetInputCount(std::int32_t*, hbDNNHandle_t);
std::int32_t hbDNNGetOutputCount(std::int32_t*, hbDNNHandle_t);
std::int32_t hbDNNGetInputTensorProperties(hbDNNTensorProperties*, hbDNNHandle_t, std::int32_t index);
std::int32_t hbDNNGetOutputTensorProperties(hbDNNTensorProperties*, hbDNNHandle_t, std::int32_t index);
std::int32_t hbDNNInfer(hbDNNTaskHandle_t*, hbDNNTensor** outputs, const hbDNNTensor* inputs, hbDNNHandle_t,
                        hbDNNInferCtrlParam*);
std::int32_t hbDNNWaitTaskDone(hbDNNTaskHandle_t, std::int32_t milliseconds);
std::int32_t hbDNNReleaseTask(hbDNNTaskHandle_t);
std::int32_t hbSysAllocCachedMem(hbSysMem*, std::uint32_t bytes);
std::int32_t hbSysFreeMem(hbSysMem*);
std::int32_t hbSysFlushMem(hbSysMem*, std::int32_t flag);

}  // extern "C"

#endif

// The S100's library has the same names and another layout.
static_assert(sizeof(hbDNNTensor) == 272, "dnn/hb_dnn.h is not that of the RDK X5");
