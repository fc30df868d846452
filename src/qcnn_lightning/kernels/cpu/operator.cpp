// A q-CNN as PyTorch operators: the function of models/qcnn.py (eq. 1-10) and its gradient, in fewer operations.
//
// network.h runs the levels; level.h computes one of them; blocks.h finds its rows; products.h multiplies matrices; workers.h
// shares work among threads; memory.h provides tensors. Neither threads nor earlier calls change the order of a sum, so results
// repeat bit by bit.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "network.h"

namespace qcnn {
namespace {

// Plain pointers read these tensors, so their types and shapes must be right.
void check(const Setting& setting, const Parameters& parameters) {
  const Tensor& x = setting.x;
  const int64_t levels = parameters.levels, sites = int64_t{1} << (levels - 1);
  const auto type = setting.table.scalar_type();
  const auto check_numbers = [&](const char* name, const Tensor& numbers, at::IntArrayRef sizes) {
    TORCH_CHECK(numbers.sizes() == sizes && numbers.scalar_type() == type && numbers.is_contiguous() &&
                    numbers.device().is_cpu(),
                name, " is ", numbers.toString(), " of shape ", numbers.sizes(), ": expected contiguous ", type,
                " on the CPU of shape ", sizes);
  };
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "table is ", type, ": expected float32 or float64");
  TORCH_CHECK(levels >= 2 && parameters.all.size() == size_t(3 * levels) && setting.epsilon.size() == size_t(levels),
              "expected gamma, beta, weight and epsilon of at least 2 levels");
  TORCH_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) == sites && x.scalar_type() == at::kByte &&
                  x.is_contiguous() && x.device().is_cpu(),
              "x is ", x.toString(), " of shape ", x.sizes(), ": expected contiguous uint8 on the CPU of shape (batch, ",
              sites, "), at least one image");
  int64_t inputs = parameters.weight(0).size(-1);
  check_numbers("table", setting.table, {256, inputs});
  for (int64_t level = 0; level < levels; ++level) {
    const Tensor& weight = parameters.weight(level);
    TORCH_CHECK(weight.dim() == 3 && (weight.size(0) == 1 || (weight.size(0) == 2 && level < levels - 1)), "weight ",
                level, " has shape ", weight.sizes(), ": expected 1 matrix, or 2 below the classification");
    check_numbers("weight", weight, {weight.size(0), weight.size(1), inputs});
    check_numbers("gamma", parameters.gamma(level), {inputs});
    check_numbers("beta", parameters.beta(level), {inputs});
    for (const Tensors* each : {&setting.mean, &setting.var, &setting.running_mean, &setting.running_var}) {
      TORCH_CHECK(each->empty() || each->size() == size_t(levels), "statistics of ", each->size(), " levels for ", levels);
      if (!each->empty()) check_numbers("a statistic", (*each)[level], {inputs});
    }
    inputs = weight.size(1);
  }
}

// What `backward` needs from a forward pass. One object: Python takes longer to wrap a tensor than a thread to sum it.
struct Tape : torch::CustomClassHolder {
  Tensors mean, var, kept;
  bool of_batch;
  Tape(const Tensors& means, const Tensors& variances, const Tensors& tensors, bool by_batch)
      : mean(means), var(variances), kept(tensors), of_batch(by_batch) {}
};
using TapePointer = c10::intrusive_ptr<Tape>;

std::tuple<Tensor, TapePointer> forward_of(const Tensor& x, const Tensor& table, const Tensors& parameters,
                                           const Tensors& mean, const Tensors& var, const Tensors& running_mean,
                                           const Tensors& running_var, double momentum,
                                           const std::vector<double>& epsilon, bool bfloat16_products, bool keep) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Setting setting{x, table, mean, var, running_mean, running_var, momentum, epsilon, bfloat16_products};
  const Parameters all{parameters};
  check(setting, all);
  const bool is_double = table.scalar_type() == at::kDouble;
  if (!mean.empty() && !keep) {
    const Tensor scores = is_double ? evaluate<double>(setting, all) : evaluate<float>(setting, all);
    return {scores, c10::make_intrusive<Tape>(mean, var, Tensors{}, false)};
  }
  const Forward result = is_double ? forward<double>(setting, all, keep) : forward<float>(setting, all, keep);
  return {result.scores, c10::make_intrusive<Tape>(result.mean, result.var, result.kept, mean.empty())};
}

Tensors backward_of(const Tensor& scores_gradient, const Tensors& parameters, const TapePointer& tape,
                    const std::vector<double>& epsilon, bool bfloat16_products) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Parameters all{parameters};
  const size_t levels = all.levels;
  const Tensors& kept = tape->kept;
  TORCH_CHECK(levels >= 2 && epsilon.size() == levels && kept.size() == kKept * levels + 1,
              "the tape is not of these parameters, or was not kept");
  const Tensor& mapped = kept[kKept * (levels - 1) + kMapped];
  TORCH_CHECK(scores_gradient.dim() == 2 && scores_gradient.size(0) == kept.back().size(0) &&
                  scores_gradient.size(1) == all.weight(levels - 1).size(1) &&
                  scores_gradient.scalar_type() == mapped.scalar_type() && scores_gradient.device().is_cpu(),
              "the scores' gradient is ", scores_gradient.toString(), " of shape ", scores_gradient.sizes(),
              ": expected one like the scores'");
  const auto run = mapped.scalar_type() == at::kDouble ? &backward<double> : &backward<float>;
  return run(scores_gradient.contiguous(), all, tape->mean, tape->var, kept, epsilon, tape->of_batch, bfloat16_products);
}

// The mean squared distance of a batch (eq. 48, `SquaredDistance` in costs.py) by the batch's statistics, and its gradients,
// in the parameters' order. Forward, cost and backward in one save 7% of an epoch at d = 18.
struct Distance {
  double cost;
  Tensors gradients;
};

void check_labels(const Tensor& labels, int64_t images, int64_t classes) {
  TORCH_CHECK(labels.dim() == 1 && labels.size(0) == images && labels.scalar_type() == at::kLong &&
                  labels.is_contiguous() && labels.device().is_cpu(),
              "labels are ", labels.toString(), " of shape ", labels.sizes(),
              ": expected contiguous int64 on the CPU, one for each of ", images, " images");
  for (int64_t image = 0; image < images; ++image) {
    const int64_t label = data<int64_t>(labels)[image];
    TORCH_CHECK(0 <= label && label < classes, "label ", label, " of image ", image, ": expected 0 to ", classes - 1);
  }
}

template <class T>
Distance squared_distance_of(const Setting& setting, const Tensor& labels, const Parameters& parameters) {
  const Forward result = forward<T>(setting, parameters, true);
  const int64_t images = result.scores.size(0), classes = result.scores.size(1);
  const Tensor scores_gradient = at::empty_like(result.scores);
  const T* score = data<T>(result.scores);
  T* gradient = data<T>(scores_gradient);
  double cost = 0;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t k = 0; k < classes; ++k, ++score, ++gradient) {
      const T difference = *score - T(data<int64_t>(labels)[image] == k);
      cost += double(difference) * difference;
      *gradient = difference * T(2.0 / images);
    }
  }
  return {cost / images, backward<T>(scores_gradient, parameters, result.mean, result.var, result.kept, setting.epsilon, true,
                                     setting.bfloat16_products)};
}

Distance squared_distance_of(const Setting& setting, const Tensor& labels, const Parameters& parameters) {
  check(setting, parameters);
  check_labels(labels, setting.x.size(0), parameters.weight(parameters.levels - 1).size(1));
  return setting.table.scalar_type() == at::kDouble ? squared_distance_of<double>(setting, labels, parameters)
                                                    : squared_distance_of<float>(setting, labels, parameters);
}

// Sets every parameter's gradient.
double squared_distance(const Tensor& x, const Tensor& labels, const Tensor& table, const Tensors& parameters,
                        const Tensors& running_mean, const Tensors& running_var, double momentum,
                        const std::vector<double>& epsilon, bool bfloat16_products) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Setting setting{x, table, {}, {}, running_mean, running_var, momentum, epsilon, bfloat16_products};
  const Distance distance = squared_distance_of(setting, labels, Parameters{parameters});
  for (size_t k = 0; k < parameters.size(); ++k)
    if (parameters[k].requires_grad()) parameters[k].mutable_grad() = distance.gradients[k];
  return distance.cost;
}

// The same of several networks with batches of their own. Lists hold network after network; a row of `gradients` has all of a
// network's. Threads share the networks, or each network's work if there are fewer networks than threads: with the same numbers.
std::vector<double> squared_distances(const Tensors& x, const Tensors& labels, const Tensor& table, const Tensors& parameters,
                                      const Tensors& running_mean, const Tensors& running_var, double momentum,
                                      const std::vector<double>& epsilon, bool bfloat16_products, const Tensor& gradients) {
  const size_t networks = x.size(), levels = epsilon.size();
  TORCH_CHECK(networks > 0 && labels.size() == networks && parameters.size() == 3 * levels * networks &&
                  running_mean.size() == levels * networks && running_var.size() == levels * networks,
              "expected as many labels, parameters and averages as ", networks, " networks of ", levels, " levels have");
  TORCH_CHECK(gradients.dim() == 2 && size_t(gradients.size(0)) == networks && gradients.is_contiguous() &&
                  gradients.scalar_type() == table.scalar_type() && gradients.device().is_cpu(),
              "gradients are ", gradients.toString(), " of shape ", gradients.sizes(), ": expected a row for each of ", networks,
              " networks");
  std::vector<double> costs(networks);
  const auto work = [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (int64_t network = begin; network < end; ++network) {
      const auto part = [&](const Tensors& all, size_t each) {
        return Tensors(all.begin() + network * each, all.begin() + (network + 1) * each);
      };
      const Tensors own = part(parameters, 3 * levels);
      const Setting setting{x[network], table,   {}, {}, part(running_mean, levels), part(running_var, levels),
                            momentum,   epsilon, bfloat16_products};
      const Distance distance = squared_distance_of(setting, labels[network], Parameters{own});
      costs[network] = distance.cost;
      auto* row = static_cast<char*>(gradients.mutable_data_ptr()) + network * gradients.size(1) * gradients.itemsize();
      int64_t room = gradients.size(1) * gradients.itemsize();
      for (const Tensor& gradient : distance.gradients) {
        const int64_t bytes = gradient.nbytes();
        TORCH_CHECK((room -= bytes) >= 0, "gradients have rows of ", gradients.size(1), " numbers: too few");
        std::memcpy(row, gradient.data_ptr(), bytes);
        row += bytes;
      }
    }
  };
  if (int64_t(networks) >= workers::num_threads())
    workers::parallel_for(networks, 1, work);
  else
    work(0, networks);
  return costs;
}

}  // namespace
}  // namespace qcnn

TORCH_LIBRARY(qcnn_lightning, library) {
  library.class_<qcnn::Tape>("Tape")
      .def("mean", [](const qcnn::TapePointer& tape) { return tape->mean; })
      .def("var", [](const qcnn::TapePointer& tape) { return tape->var; });
  // The scores, and a tape with every level's mean and variance and, if keep, what `backward` needs. parameters: gamma of
  // every level, then beta, then weight. Empty mean and var stand for the batch's; the running averages, if given, move
  // towards them.
  library.def(
      "forward(Tensor x, Tensor table, Tensor[] parameters, Tensor[] mean, Tensor[] var, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum, float[] epsilon, bool bfloat16_products, bool keep) -> "
      "(Tensor scores, __torch__.torch.classes.qcnn_lightning.Tape tape)",
      &qcnn::forward_of);
  // The gradients of all parameters.
  library.def(
      "backward(Tensor scores_gradient, Tensor[] parameters, __torch__.torch.classes.qcnn_lightning.Tape tape, "
      "float[] epsilon, bool bfloat16_products) -> Tensor[]",
      &qcnn::backward_of);
  // The mean squared distance of a batch; sets every parameter's gradient.
  library.def(
      "squared_distance(Tensor x, Tensor labels, Tensor table, Tensor[] parameters, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum, float[] epsilon, bool bfloat16_products) -> float",
      &qcnn::squared_distance);
  // The same of several networks; the gradients go to the rows of a matrix.
  library.def(
      "squared_distances(Tensor[] x, Tensor[] labels, Tensor table, Tensor[] parameters, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum, float[] epsilon, bool bfloat16_products, Tensor(c!) gradients) -> float[]",
      &qcnn::squared_distances);
  // Number of threads that share the work; 0 for PyTorch's number.
  library.def("set_num_threads(int threads) -> ()", [](int64_t threads) { workers::given_threads = threads; });
  // Whether this processor has matrix units for float32 products as three bfloat16 ones.
  library.def("has_matrix_units() -> bool", &products::has_matrix_units);
}
