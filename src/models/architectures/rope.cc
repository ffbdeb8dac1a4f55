#include "models/architectures/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace tidepool::architectures {
namespace {

// The scaling fields of one rope under both naming schemes.
class ScalingFields {
 public:
  ScalingFields(const Fields& fields, const RopeKeys& keys) : fields_(fields), keys_(keys) {}

  // `hf_name` under rope_parameters (or rope_scaling); `gguf_name` under rope.scaling.
  Result<double> Float(std::string_view gguf_name, std::string_view hf_name, double otherwise, double minimum,
                       double maximum) const {
    const Spelling name = Spell(gguf_name, hf_name);
    return fields_.FloatOr({name.gguf, name.hf}, otherwise, minimum, maximum);
  }
  Result<std::string> Type() const {
    const Spelling name = Spell("rope.scaling.type", "rope_type");
    const std::string hf =
        keys_.hf_scaling.empty() ? name.hf : fmt::format("{}|{}type", name.hf, keys_.hf_scaling);
    if (fields_.is_gguf() && !keys_.gguf_scaling) return std::string("none");
    TP_ASSIGN(std::string type, fields_.StringOr({name.gguf, hf}, ""));
    if (!type.empty()) return type;
    // Old GGUF files give only the factor.
    return std::string(fields_.is_gguf() && fields_.Has({kGgufFactor, ""}) ? "linear" : "none");
  }
  tl::unexpected<Error> BadType(std::string_view trouble) const {
    const Spelling name = Spell("rope.scaling.type", "rope_type");
    return fields_.Bad({name.gguf, name.hf}, trouble);
  }

  static constexpr std::string_view kGgufFactor = "rope.scaling.factor|rope.scale_linear";

 private:
  struct Spelling {
    std::string gguf, hf;
  };
  Spelling Spell(std::string_view gguf_name, std::string_view hf_name) const {
    Spelling name{std::string(gguf_name), fmt::format("{}{}", keys_.hf_parameters, hf_name)};
    if (!keys_.hf_scaling.empty()) name.hf += fmt::format("|{}{}", keys_.hf_scaling, hf_name);
    return name;
  }

  const Fields& fields_;
  const RopeKeys& keys_;
};

// llama3: wavelengths (2 pi / f) under original/high keep their frequency, those over original/low are
// divided by the factor, between them the two are blended by how many turns fit the original context.
Status ScaleLlama3(const ScalingFields& scaling, int32_t context, std::vector<double>& frequency) {
  TP_ASSIGN(const double factor, scaling.Float("", "factor", 8, 1e-3, 1e6));
  TP_ASSIGN(const double low, scaling.Float("", "low_freq_factor", 1, 1e-3, 1e6));
  TP_ASSIGN(const double high, scaling.Float("", "high_freq_factor", 4, 1e-3, 1e6));
  TP_ASSIGN(const double original, scaling.Float("", "original_max_position_embeddings", context, 1, 1e9));
  for (double& f : frequency) {
    const double turns = original * f / (2 * std::numbers::pi);
    if (turns > high) continue;
    if (turns < low || high <= low) {
      f /= factor;
    } else {
      const double blend = (turns - low) / (high - low);
      f = (1 - blend) * f / factor + blend * f;
    }
  }
  return {};
}

double YarnMagnitude(double factor, double k) { return factor > 1 ? 0.1 * k * std::log(factor) + 1 : 1; }

// cos and sin are multiplied by this: explicit, or from mscale, or 0.1 ln(factor) + 1.
Result<double> YarnAmplitude(const Fields& fields, const ScalingFields& scaling, double factor) {
  TP_ASSIGN(const double given,
            scaling.Float("rope.scaling.yarn_attn_factor", "attention_factor", 0, 0, 1e3));
  TP_ASSIGN(const double extra, scaling.Float("rope.scaling.attn_factor", "", 1, 1e-3, 1e3));
  if (given > 0) return given * extra;
  TP_ASSIGN(const double mscale, scaling.Float("", "mscale", fields.is_gguf() ? 1 : 0, -1e3, 1e3));
  TP_ASSIGN(const double all,
            scaling.Float("rope.scaling.yarn_log_multiplier", "mscale_all_dim", 0, -1e3, 1e3));
  if (mscale != 0 && all != 0) return extra * YarnMagnitude(factor, mscale) / YarnMagnitude(factor, all);
  return extra * YarnMagnitude(factor, 1);
}

// YaRN (arXiv:2309.00071): dimensions that turn often within the original context keep their frequency, slow
// ones are interpolated (divided by the factor), with a linear ramp between the dimensions of beta_fast and
// beta_slow turns.
Status ScaleYarn(const Fields& fields, const ScalingFields& scaling, double base, int32_t context, Rope& rope,
                 std::vector<double>& frequency) {
  TP_ASSIGN(const double factor, scaling.Float(ScalingFields::kGgufFactor, "factor", 1, 1e-3, 1e6));
  TP_ASSIGN(const double original, scaling.Float("rope.scaling.original_context_length",
                                                 "original_max_position_embeddings", context, 1, 1e9));
  TP_ASSIGN(double fast, scaling.Float("rope.scaling.yarn_beta_fast", "beta_fast", 32, 0, 1e6));
  TP_ASSIGN(double slow, scaling.Float("rope.scaling.yarn_beta_slow", "beta_slow", 1, 0, 1e6));
  TP_ASSIGN(double extrapolate, scaling.Float("rope.scaling.yarn_ext_factor", "", 1, -1, 1));
  if (fast == 0) fast = 32;
  if (slow == 0) slow = 1;
  if (extrapolate < 0) extrapolate = 1;

  const double d = rope.rotary_dim;
  const auto dimension = [&](double turns) {
    return d * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(dimension(fast)), 0.0);
  double high = std::min(std::ceil(dimension(slow)), d - 1);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double keep = (1 - ramp) * extrapolate;
    frequency[i] = frequency[i] / factor * (1 - keep) + frequency[i] * keep;
  }
  TP_ASSIGN(const double amplitude, YarnAmplitude(fields, scaling, factor));
  rope.amplitude = static_cast<float>(amplitude);
  rope.original_context = original;
  rope.factor = factor;
  return {};
}

// GGUF carries llama3 scaling as a tensor of divisors.
Status ApplyRopeFreqs(const Fields& fields, std::vector<double>& frequency) {
  const formats::Tensor* tensor = fields.checkpoint().Find("rope_freqs.weight");
  if (tensor == nullptr) return {};
  const auto bad = [&](std::string_view trouble) {
    return Fail(ErrorKind::kCorrupt, "bad_tensor_values",
                fmt::format("{}: tensor 'rope_freqs.weight' {}. Download or convert the model again.",
                            fields.file(), trouble),
                "rope_freqs.weight");
  };
  if (tensor->shape.size() != 1 || tensor->shape[0] != static_cast<int64_t>(frequency.size())) {
    return bad(fmt::format("has the wrong shape; expected [{}]", frequency.size()));
  }
  TP_ASSIGN(const std::vector<float> divisors, formats::TensorToFloat(fields.checkpoint(), *tensor));
  for (size_t i = 0; i < frequency.size(); ++i) {
    if (!(divisors[i] > 0) || !std::isfinite(divisors[i]))
      return bad("holds values that are not positive numbers");
    frequency[i] /= divisors[i];
  }
  return {};
}

Status Scale(const Fields& fields, const RopeKeys& keys, double base, int32_t context, Rope& rope,
             std::vector<double>& frequency) {
  const ScalingFields scaling(fields, keys);
  TP_ASSIGN(const std::string type, scaling.Type());
  if (type == "linear") {
    TP_ASSIGN(const double factor, scaling.Float(ScalingFields::kGgufFactor, "factor", 1, 1e-3, 1e6));
    for (double& f : frequency) f /= factor;
  } else if (type == "llama3" && !fields.is_gguf()) {
    TP_TRY(ScaleLlama3(scaling, context, frequency));
  } else if (type == "yarn") {
    TP_TRY(ScaleYarn(fields, scaling, base, context, rope, frequency));
  } else if (type != "none" && type != "default") {
    return scaling.BadType(
        fmt::format("is '{}'; this version knows none, default, linear, llama3 and yarn scaling", type));
  }
  if (fields.is_gguf() && keys.gguf_scaling) return ApplyRopeFreqs(fields, frequency);
  return {};
}

Result<int32_t> ReadRotaryDim(const Fields& fields, int32_t head_dim, const RopeKeys& keys) {
  const std::string partial =
      fmt::format("{}partial_rotary_factor|partial_rotary_factor", keys.hf_parameters);
  TP_ASSIGN(const double share, fields.FloatOr({"", partial}, 1, 0, 1));
  const auto rotary = static_cast<int64_t>(share * head_dim);
  if (!fields.is_gguf()) {
    if (rotary < 2 || rotary % 2 != 0)
      return fields.Bad({"", partial}, "gives an odd or empty rotary dimension");
    return static_cast<int32_t>(rotary);
  }
  constexpr FieldKey kDimension{"rope.dimension_count", ""};
  TP_ASSIGN(const int64_t given, fields.IntOr(kDimension, head_dim, 2, head_dim));
  if (given % 2 != 0) return fields.Bad(kDimension, fmt::format("is {}; expected an even number", given));
  return static_cast<int32_t>(given);
}

}  // namespace

Result<Rope> ReadRope(const Fields& fields, int32_t head_dim, int32_t context, const RopeKeys& keys) {
  Rope rope;
  rope.head_dim = head_dim;
  TP_ASSIGN(rope.rotary_dim, ReadRotaryDim(fields, head_dim, keys));
  const std::string hf_base = fmt::format("{}rope_theta|{}", keys.hf_parameters, keys.hf_base);
  // Over 1: YaRN divides by its logarithm.
  TP_ASSIGN(const double base, fields.FloatOr({keys.gguf_base, hf_base}, keys.default_base, 1.001, 1e15));

  std::vector<double> frequency(static_cast<size_t>(rope.rotary_dim / 2));
  for (size_t i = 0; i < frequency.size(); ++i) {
    frequency[i] = std::pow(base, -2.0 * static_cast<double>(i) / rope.rotary_dim);
  }
  TP_TRY(Scale(fields, keys, base, context, rope, frequency));
  rope.frequencies.assign(frequency.begin(), frequency.end());
  return rope;
}

int32_t ExtendedContext(int32_t context, const Rope& rope) {
  constexpr double kMax = 1 << 27;
  return std::max(context, static_cast<int32_t>(std::min(rope.original_context * rope.factor, kMax)));
}

}  // namespace tidepool::architectures
