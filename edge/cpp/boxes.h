// From a detector's outputs to boxes, as edge's Python decodes them. The outputs are maps (1, channels,
// height, width) of logits and undecoded boxes; a candidate gives one box, of its best class.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "net.h"
#include "preprocess.h"

namespace edge {

// How a box is coded. kYolox: centre and the logarithm of its sides, in strides. kDfl (YOLOv8 and later): the
// distances to its four sides, each the mean of a distribution over bins. kAnchors (YOLOv5, YOLOv7): centre,
// and sides as a share of an anchor's.
enum class Family { kYolox, kDfl, kAnchors };

// The outputs of one scale, by their place in the program. Where there are anchors, the maps hold the
// channels of each in turn.
struct Scale {
  int stride;  // pixels per cell of the maps
  std::size_t boxes;
  std::size_t scores;
  std::size_t objectness = 0;                   // not kDfl
  std::vector<std::array<float, 2>> anchors{};  // width and height in pixels; only kAnchors

  int per_cell() const { return std::max(1, static_cast<int>(anchors.size())); }
};

struct Detector {
  Family family;
  int classes;
  int bins;          // of a distribution; 1 where there is none
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

inline std::array<float, 4> box(const Map& boxes, const Detector& detector, const Scale& scale, int anchor,
                                int cell, int width) {
  const auto stride = static_cast<float>(scale.stride);
  const auto x = static_cast<float>(cell % width);
  const auto y = static_cast<float>(cell / width);
  if (detector.family == Family::kDfl) {
    const auto side = [&](int i) { return distance(boxes, i * detector.bins, detector.bins, cell); };
    return {(x + 0.5F - side(0)) * stride, (y + 0.5F - side(1)) * stride, (x + 0.5F + side(2)) * stride,
            (y + 0.5F + side(3)) * stride};
  }
  std::array<float, 4> raw;
  for (int i = 0; i < 4; ++i) raw[static_cast<std::size_t>(i)] = boxes.plane(4 * anchor + i)[cell];
  std::array<float, 2> middle{(x + raw[0]) * stride, (y + raw[1]) * stride};
  std::array<float, 2> sides{std::exp(raw[2]) * stride, std::exp(raw[3]) * stride};
  if (detector.family == Family::kAnchors) {
    for (float& value : raw) value = 2 * sigmoid(value);
    const auto& [wide, high] = scale.anchors[static_cast<std::size_t>(anchor)];
    middle = {(x + raw[0] - 0.5F) * stride, (y + raw[1] - 0.5F) * stride};
    sides = {raw[2] * raw[2] * wide, raw[3] * raw[3] * high};
  }
  return {middle[0] - sides[0] / 2, middle[1] - sides[1] / 2, middle[0] + sides[0] / 2,
          middle[1] + sides[1] / 2};
}

// Appends the candidates of a scale that reach a score.
inline void candidates(const Net& net, const Run& run, const Detector& detector, const Scale& scale,
                       Size input, float score, std::vector<Box>& found) {
  const Size cells{input.height / scale.stride, input.width / scale.stride};
  const bool two = detector.family != Family::kDfl;  // whether a score has two factors: class and objectness
  const int count = scale.per_cell();
  const Map boxes(net, run, scale.boxes, count * 4 * detector.bins, cells);
  const Map scores(net, run, scale.scores, count * detector.classes, cells);
  std::optional<Map> objectness;
  if (two) objectness.emplace(net, run, scale.objectness, count, cells);
  const float least = std::log(score / (1.0F - score));  // a logit; it leaves out most candidates

  for (int anchor = 0; anchor < count; ++anchor) {
    for (int cell = 0; cell < cells.height * cells.width; ++cell) {
      if (two && objectness->plane(anchor)[cell] < least) continue;
      const int first = anchor * detector.classes;
      int best = 0;
      for (int label = 1; label < detector.classes; ++label) {
        if (scores.plane(first + label)[cell] > scores.plane(first + best)[cell]) best = label;
      }
      const float logit = scores.plane(first + best)[cell];
      if (logit < least) continue;
      const float product = sigmoid(logit) * (two ? sigmoid(objectness->plane(anchor)[cell]) : 1.0F);
      if (two && product < score) continue;
      found.push_back({box(boxes, detector, scale, anchor, cell, cells.width), product, best});
    }
  }
}

// Returns the shared area of two boxes as a part of what they cover together.
inline float overlap(const Box& one, const Box& other) {
  const auto area = [](const std::array<float, 4>& sides) {
    return std::max(0.0F, sides[2] - sides[0]) * std::max(0.0F, sides[3] - sides[1]);
  };
  const auto& a = one.sides;
  const auto& b = other.sides;
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
