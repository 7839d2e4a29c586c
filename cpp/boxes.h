// From a detector's outputs to boxes, as edge's Python decodes them. The outputs are maps (1, channels,
// height, width) of logits and undecoded boxes; a candidate gives one box, of its best class.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "net.h"
#include "preprocess.h"

namespace edge {

// How a box is coded. kYolox: centre and the logarithm of its sides, in strides. kDfl: the distances to its
// four sides, each the mean of a distribution over bins.
enum class Family { kYolox, kDfl };

// The outputs of one scale, by their place in the program.
struct Scale {
  int stride;  // pixels per cell of the maps
  std::size_t boxes;
  std::size_t scores;
  std::size_t objectness = 0;  // only kYolox
};

struct Detector {
  Family family;
  int classes;
  int bins;          // of a distribution; 1: the output is the distance itself. Only kDfl
  bool thinned_out;  // whether boxes of one object have to be thinned out
  std::vector<Scale> scales;
};

struct Box {
  std::array<float, 4> sides;  // left, top, right, bottom in pixels of the program's input
  float score;                 // 0..1
  int label;
};

namespace detail {

inline float sigmoid(float logit) { return 1.0F / (1.0F + std::exp(-logit)); }

// One output: a plane of cells for each channel.
class Map {
 public:
  Map(const Net& net, const Run& run, std::size_t output, int channels, Size cells)
      : cells_(static_cast<std::size_t>(cells.height * cells.width)) {
    if (net.shape(output) != std::vector<int>{1, channels, cells.height, cells.width}) {
      throw Error("output " + std::to_string(output) + " is not 1x" + std::to_string(channels) + "x" +
                  std::to_string(cells.height) + "x" + std::to_string(cells.width) +
                  ": the program is not the one that this code was made for");
    }
    values_ = run.output(output);
  }

  const float* plane(int channel) const { return &values_[static_cast<std::size_t>(channel) * cells_]; }

 private:
  std::size_t cells_;
  std::vector<float> values_;
};

// Returns the mean of the distribution whose logits stand in the planes first..first+bins.
inline float distance(const Map& boxes, int first, int bins, int cell) {
  if (bins == 1) return boxes.plane(first)[cell];
  float highest = boxes.plane(first)[cell];
  for (int bin = 1; bin < bins; ++bin) highest = std::max(highest, boxes.plane(first + bin)[cell]);
  float sum = 0.0F;
  float mean = 0.0F;
  for (int bin = 0; bin < bins; ++bin) {
    const float share = std::exp(boxes.plane(first + bin)[cell] - highest);
    sum += share;
    mean += share * static_cast<float>(bin);
  }
  return mean / sum;
}

inline std::array<float, 4> box(const Map& boxes, const Detector& detector, int stride, int cell, int width) {
  const auto pixels = static_cast<float>(stride);
  const auto x = static_cast<float>(cell % width);
  const auto y = static_cast<float>(cell / width);
  if (detector.family == Family::kDfl) {
    const auto side = [&](int i) { return distance(boxes, i * detector.bins, detector.bins, cell); };
    return {(x + 0.5F - side(0)) * pixels, (y + 0.5F - side(1)) * pixels, (x + 0.5F + side(2)) * pixels,
            (y + 0.5F + side(3)) * pixels};
  }
  const float middle_x = (x + boxes.plane(0)[cell]) * pixels;
  const float middle_y = (y + boxes.plane(1)[cell]) * pixels;
  const float half_width = std::exp(boxes.plane(2)[cell]) * pixels / 2;
  const float half_height = std::exp(boxes.plane(3)[cell]) * pixels / 2;
  return {middle_x - half_width, middle_y - half_height, middle_x + half_width, middle_y + half_height};
}

// Appends the candidates of a scale that reach a score.
inline void candidates(const Net& net, const Run& run, const Detector& detector, const Scale& scale,
                       Size input, float score, std::vector<Box>& found) {
  const Size cells{input.height / scale.stride, input.width / scale.stride};
  const bool yolox = detector.family == Family::kYolox;
  const Map boxes(net, run, scale.boxes, yolox ? 4 : 4 * detector.bins, cells);
  const Map scores(net, run, scale.scores, detector.classes, cells);
  const Map objectness = yolox ? Map(net, run, scale.objectness, 1, cells) : scores;
  const float least = std::log(score / (1.0F - score));  // a logit; most candidates are left out by it

  for (int cell = 0; cell < cells.height * cells.width; ++cell) {
    if (yolox && objectness.plane(0)[cell] < least) continue;
    int best = 0;
    for (int label = 1; label < detector.classes; ++label) {
      if (scores.plane(label)[cell] > scores.plane(best)[cell]) best = label;
    }
    const float logit = scores.plane(best)[cell];
    if (logit < least) continue;
    const float sure = sigmoid(logit) * (yolox ? sigmoid(objectness.plane(0)[cell]) : 1.0F);
    if (yolox && sure < score) continue;
    found.push_back({box(boxes, detector, scale.stride, cell, cells.width), sure, best});
  }
}

// Returns the shared area of two boxes as a part of what they cover together.
inline float overlap(const Box& one, const Box& other) {
  const auto area = [](const std::array<float, 4>& sides) {
    return std::max(0.0F, sides[2] - sides[0]) * std::max(0.0F, sides[3] - sides[1]);
  };
  const auto& [a, b] = std::pair(one.sides, other.sides);
  const float shared =
      area({std::max(a[0], b[0]), std::max(a[1], b[1]), std::min(a[2], b[2]), std::min(a[3], b[3])});
  const float covered = area(a) + area(b) - shared;
  return covered > 0.0F ? shared / covered : 1.0F;
}

}  // namespace detail

// Returns the boxes of an image, the best first. Of two boxes of a class that overlap by more than `iou`, the
// worse one is left out; score and iou lie between 0 and 1.
inline std::vector<Box> boxes(const Net& net, const Run& run, const Detector& detector, Size input,
                              float score, float iou = 0.65F, std::size_t most = 300) {
  std::vector<Box> found;
  for (const Scale& scale : detector.scales) {
    detail::candidates(net, run, detector, scale, input, score, found);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Box& one, const Box& other) { return one.score > other.score; });
  std::vector<Box> kept;
  for (const Box& box : found) {
    if (kept.size() == most) break;
    const bool hidden = detector.thinned_out && std::any_of(kept.begin(), kept.end(), [&](const Box& better) {
                          return better.label == box.label && detail::overlap(better, box) > iou;
                        });
    if (!hidden) kept.push_back(box);
  }
  return kept;
}

}  // namespace edge
