// From a classifier's scores to its best classes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace edge {

// What the scores are: a softmax makes probabilities of logits; the others stay as they are.
enum class Scores { kLogits, kProbabilities, kUnknown };

struct Class {
  std::size_t index;
  double value;  // a probability, or the bare score where it is not known what it is
};

// Returns the `most` best classes, the best first.
inline std::vector<Class> best_classes(const std::vector<float>& scores, Scores kind, std::size_t most) {
  std::vector<double> values(scores.begin(), scores.end());
  if (kind == Scores::kLogits) {
    const double highest = *std::max_element(values.begin(), values.end());
    for (double& value : values) value = std::exp(value - highest);
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    for (double& value : values) value /= sum;
  }
  std::vector<Class> classes;
  for (std::size_t i = 0; i < values.size(); ++i) classes.push_back({i, values[i]});
  std::stable_sort(classes.begin(), classes.end(),
                   [](const Class& one, const Class& other) { return one.value > other.value; });
  classes.resize(std::min(most, classes.size()));
  return classes;
}

}  // namespace edge
