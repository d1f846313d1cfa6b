// Runs a network that `mol export --format aoti` wrote on one clip; neither Python nor this program is needed.
//   run_clip mol.aoti.pt2 clip.raw      clip.raw: 8 aligned grey frames of 128×128 pixels, one byte each
// Built by CMakeLists.txt beside it.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: run_clip NETWORK.aoti.pt2 CLIP.raw\n";
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() != 8 * 128 * 128) {
    std::cerr << argv[2] << " has " << bytes.size() << " bytes; 8 x 128 x 128 are needed\n";
    return 2;
  }
  c10::InferenceMode inference;
  at::Tensor clip = at::from_blob(bytes.data(), {1, 1, 8, 128, 128}, at::kByte).to(at::kFloat);
  clip = (clip - clip.mean()) / clip.std(/*unbiased=*/false).clamp_min(1e-3);  // as in training: mean 0, deviation 1

  torch::inductor::AOTIModelPackageLoader network(argv[1]);
  const std::vector<at::Tensor> found = network.run({clip});  // logits, flow, landmarks
  std::cout << "classes " << network.get_metadata()["classes"] << "\nprobabilities";
  const at::Tensor probabilities = at::softmax(found[0], 1).contiguous();
  for (int64_t i = 0; i < probabilities.size(1); ++i) std::cout << ' ' << probabilities.data_ptr<float>()[i];
  std::cout << "\nlargest motion " << found[1].abs().max().item<float>() << " pixels\n";
}
