/* A stand-in for the board's libdnn, so that the vendor's compiled Python modules run without a board.
 *
 * A program is a text file. Lines that begin with # are skipped; the others are:
 *   model NAME
 *   in  NAME TYPE LAYOUT ROW_BYTES RANK SIDE... SCALES SCALE...
 *   out NAME TYPE LAYOUT ROW_BYTES RANK SIDE... SCALES SCALE...
 * LAYOUT is 0 for NHWC and 2 for NCHW. ROW_BYTES is what a row takes in memory, 0 without padding.
 *
 * Behaviours, each by a variable of the environment:
 *   DNN_FAIL=load|infer|wait   that call fails; DNN_AFTER=N: only after N good runs of the program
 *   DNN_MEMORY=numbers         fresh memory holds different finite numbers; else one byte again and again
 *   DNN_US=N                   a run takes N microseconds
 *   DNN_BANNER=1               prints to stdout as the vendor's library does
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDES = 8, TENSORS = 8, NAME = 64, PLANES = 4 };
enum { BAD_MODEL = -6000002, BAD_PACK = -6000004, BAD_HANDLE = -6000005, NO_FILE = -6000006, MISFIT = -6000014, BAD_ARGUMENT = -6000001,
       TASK_FAILED = -6000012 };
enum { NV12 = 1, NV12_SEPARATE = 2, S8 = 8, S16 = 11, F32 = 13, S32 = 14, TYPES = 19 };

static const char *const TYPE_NAMES[TYPES] = {"Y", "NV12", "NV12_SEPARATE", "YUV444", "RGB", "BGR", "S4", "U4", "S8",
    "U8", "F16", "S16", "U16", "F32", "S32", "U32", "F64", "S64", "U64"};
static const int TYPE_BYTES[TYPES] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8};

/* The memory layout of the vendor's C API, with our names. */
typedef struct { int32_t side[SIDES]; int32_t rank; } Shape;
typedef struct { int32_t length; uint8_t *values; } Shift;
typedef struct { int32_t scales; float *scale; int32_t zero_points; int8_t *zero_point; } Scale;
typedef struct {
    Shape valid, aligned;
    int32_t layout, type;
    Shift shift;
    Scale scale;
    int32_t quantization, axis, bytes, stride[SIDES];
} Properties;
typedef struct { uint64_t physical; void *virtual; uint32_t size; } Memory;
typedef struct { Memory memory[PLANES]; Properties properties; } Tensor;

typedef struct { char name[NAME]; Properties properties; } Described;
typedef struct { char name[NAME]; int inputs, outputs, runs; Described input[TENSORS], output[TENSORS]; } Model;
typedef struct { Model model; const char *names[1]; } Pack;

/* The environment */

static int asked(const char *variable, const char *value) {
    const char *set = getenv(variable);
    return set && strcmp(set, value) == 0;
}

static int number(const char *variable) {
    const char *set = getenv(variable);
    return set ? atoi(set) : 0;
}

/* Whether a call fails, of a program that ran so many times. */
static int fails(const char *call, int runs) { return runs >= number("DNN_AFTER") && asked("DNN_FAIL", call); }

static void banner(void) {
    if (number("DNN_BANNER")) {
        printf("[BPU_PLAT]BPU Platform Version(1.3.6)!\n[HBRT] set log level as 0. version = 3.15.55.0\n"
               "[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)\n");
        fflush(stdout);
    }
}

/* Programs */

static int is_image(const Properties *p) { return p->type == NV12 || p->type == NV12_SEPARATE; }

static int elements(const Properties *p) {
    int count = 1;
    for (int i = 0; i < p->valid.rank; i++) count *= p->valid.side[i];
    return count;
}

/* Strides from the last axis on; a padded row makes the axes before it wider. */
static void lay_out(Properties *p, int row_bytes) {
    int bytes = TYPE_BYTES[p->type];
    for (int i = p->valid.rank - 1; i >= 0; i--) {
        p->stride[i] = is_image(p) ? 0 : bytes;
        bytes = i == p->valid.rank - 1 && row_bytes ? row_bytes : bytes * p->valid.side[i];
    }
    p->bytes = is_image(p) ? elements(p) / 2 : bytes;
    p->aligned = p->valid;
    if (row_bytes) p->aligned.side[p->valid.rank - 1] = row_bytes / TYPE_BYTES[p->type];
}

static int read_scales(FILE *file, Properties *p) {
    int count;
    if (fscanf(file, "%d", &count) != 1) return 0;
    if (!count) return 1;
    p->quantization = 2; /* SCALE */
    p->axis = p->layout == 2 ? 1 : p->valid.rank - 1;
    p->scale.scales = count;
    p->scale.scale = calloc(count, sizeof(float));
    for (int i = 0; i < count; i++)
        if (fscanf(file, "%f", &p->scale.scale[i]) != 1) return 0;
    return 1;
}

static int read_tensor(FILE *file, Described *tensor) {
    char type[NAME];
    int row_bytes;
    Properties *p = &tensor->properties;
    if (fscanf(file, "%63s %63s %d %d %d", tensor->name, type, &p->layout, &row_bytes, &p->valid.rank) != 5) return 0;
    while (p->type < TYPES && strcmp(TYPE_NAMES[p->type], type)) p->type++;
    if (p->type == TYPES || p->valid.rank > SIDES) return 0;
    for (int i = 0; i < p->valid.rank; i++)
        if (fscanf(file, "%d", &p->valid.side[i]) != 1) return 0;
    lay_out(p, row_bytes);
    return read_scales(file, p);
}

static int read_model(FILE *file, Model *model) {
    char word[NAME];
    while (fscanf(file, "%63s", word) == 1) {
        int read;
        if (word[0] == '#') read = fscanf(file, "%*[^\n]") != EOF;
        else if (!strcmp(word, "model")) read = fscanf(file, "%63s", model->name) == 1;
        else if (!strcmp(word, "in")) read = read_tensor(file, &model->input[model->inputs++]);
        else if (!strcmp(word, "out")) read = read_tensor(file, &model->output[model->outputs++]);
        else return 0;
        if (!read) return 0;
    }
    return model->name[0] != 0;
}

int hbDNNInitializeFromFiles(void **pack, const char **paths, int count) {
    FILE *file = count == 1 ? fopen(paths[0], "r") : NULL;
    *pack = NULL;
    if (!file) return NO_FILE;
    Pack *made = calloc(1, sizeof *made);
    int whole = read_model(file, &made->model);
    fclose(file);
    if (!whole) return BAD_MODEL;
    if (fails("load", 0)) return MISFIT;
    banner();
    made->names[0] = made->model.name;
    *pack = made;
    return 0;
}

int hbDNNRelease(void *pack) { free(pack); return 0; }

int hbDNNGetModelNameList(const char ***names, int *count, void *pack) {
    *count = 0;
    if (!pack) return BAD_PACK; /* bpu_infer_lib asks on though loading failed */
    *names = ((Pack *)pack)->names;
    *count = 1;
    return 0;
}

int hbDNNGetModelHandle(void **model, void *pack, const char *name) {
    *model = NULL;
    if (!pack) return BAD_PACK;
    if (strcmp(name, ((Pack *)pack)->model.name)) return BAD_HANDLE;
    *model = &((Pack *)pack)->model;
    return 0;
}

static int counted(int *count, int tensors) { *count = tensors; return 0; }

int hbDNNGetInputCount(int *count, void *model) {
    return model ? counted(count, ((Model *)model)->inputs) : BAD_HANDLE;
}

int hbDNNGetOutputCount(int *count, void *model) {
    return model ? counted(count, ((Model *)model)->outputs) : BAD_HANDLE;
}

int hbDNNGetInputName(const char **name, void *model, int i) { *name = ((Model *)model)->input[i].name; return 0; }
int hbDNNGetOutputName(const char **name, void *model, int i) { *name = ((Model *)model)->output[i].name; return 0; }

int hbDNNGetInputTensorProperties(Properties *properties, void *model, int i) {
    *properties = ((Model *)model)->input[i].properties;
    return 0;
}

int hbDNNGetOutputTensorProperties(Properties *properties, void *model, int i) {
    *properties = ((Model *)model)->output[i].properties;
    return 0;
}

/* Runs */

/* FNV-1a of a tensor's bytes; the planes of a separate NV12 lie in two memories. */
static uint32_t hash(uint32_t seed, const Tensor *tensor, const Properties *p) {
    for (int plane = 0; plane < (p->type == NV12_SEPARATE ? 2 : 1); plane++) {
        int bytes = p->type != NV12_SEPARATE ? p->bytes : plane ? p->bytes / 3 : p->bytes / 3 * 2;
        const uint8_t *data = tensor->memory[plane].virtual;
        for (int i = 0; i < bytes; i++) seed = (seed ^ data[i]) * 16777619u;
    }
    return seed;
}

/* Value k of an output: -128 to 127, another one for another input. */
static int value(uint32_t seed, int k) { return (int)(((seed ^ (uint32_t)k * 2654435761u) >> 13) & 0xff) - 128; }

static void store(void *at, int type, int v) {
    if (type == F32) *(float *)at = (float)v / 8;
    if (type == S32) *(int32_t *)at = v * 1000;
    if (type == S16) *(int16_t *)at = (int16_t)(v * 100);
    if (type == S8) *(int8_t *)at = (int8_t)v;
}

/* Write the values row by row; what pads a row is 0x7f. */
static void fill(Tensor *tensor, const Properties *p, uint32_t seed) {
    int columns = p->valid.side[p->valid.rank - 1], rows = elements(p) / columns;
    int row_bytes = p->bytes / rows;
    memset(tensor->memory[0].virtual, 0x7f, p->bytes);
    for (int k = 0; k < rows * columns; k++) {
        char *at = (char *)tensor->memory[0].virtual + k / columns * row_bytes + k % columns * TYPE_BYTES[p->type];
        store(at, p->type, value(seed, k));
    }
}

int hbDNNInfer(void **task, Tensor **outputs, const Tensor *inputs, void *handle, void *control) {
    Model *model = handle;
    int runs = model->runs++;
    (void)control;
    if (fails("infer", runs)) return BAD_ARGUMENT;
    usleep(number("DNN_US"));
    int *failed = malloc(sizeof *failed); /* the task: whether waiting for it fails */
    *failed = fails("wait", runs);
    *task = failed;
    if (*failed) return 0;
    uint32_t seed = 2166136261u;
    for (int i = 0; i < model->inputs; i++) seed = hash(seed, &inputs[i], &model->input[i].properties);
    for (int i = 0; i < model->outputs; i++) fill(&(*outputs)[i], &model->output[i].properties, seed + i);
    return 0;
}

int hbDNNWaitTaskDone(void *task, int milliseconds) {
    (void)milliseconds;
    return *(int *)task ? TASK_FAILED : 0;
}

int hbDNNReleaseTask(void *task) { free(task); return 0; }
const char *hbDNNGetVersion(void) { return "1.24.5_(3.15.55 HBRT)"; }
const char *hbDNNGetErrorDesc(int code) { (void)code; return "an error of the stand-in"; }

/* Memory */

static void stale(void *memory, uint32_t bytes) {
    memset(memory, 0xa5, bytes);
    if (asked("DNN_MEMORY", "numbers"))
        for (uint32_t i = 0; i < bytes / sizeof(float); i++) ((float *)memory)[i] = (float)(i % 17) - 4;
}

int hbSysAllocCachedMem(Memory *memory, uint32_t bytes) {
    memory->virtual = malloc(bytes + sizeof(float));
    memory->physical = 1;
    memory->size = bytes;
    stale(memory->virtual, bytes);
    return 0;
}

int hbSysFreeMem(Memory *memory) { free(memory->virtual); memory->virtual = NULL; return 0; }
int hbSysFlushMem(Memory *memory, int flag) { (void)memory; (void)flag; return 0; }
