// upscale_openvino GRAPH.onnx IN.ppm OUT.ppm SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]]
// A bundle's RGB graph on OpenVINO, of floats or of raw pixels; the picture whole, or in tiles (tiles.hpp).
// The wheel `pip install openvino` carries the headers, the libraries and the CMake files.
#include <exception>
#include <iostream>

#include <openvino/openvino.hpp>

#include "tensor.hpp"
#include "tiles.hpp"

// A graph of floats: 1×3×H×W.
static Picture run_floats(ov::InferRequest& request, const Picture& picture) {
    ov::Tensor input(ov::element::f32, {1, 3, picture.height, picture.width});
    to_network(picture, input.data<float>());
    request.set_input_tensor(input);
    request.infer();
    const ov::Tensor output = request.get_output_tensor();
    const ov::Shape shape = output.get_shape();  // 1, 3, H·scale, W·scale
    return from_network(output.data<float>(), shape[2], shape[3]);
}

// A graph of raw pixels (--io uint8): 1×H×W×3 bytes.
static Picture run_pixels(ov::InferRequest& request, Picture& picture) {
    request.set_input_tensor(ov::Tensor(ov::element::u8, {1, picture.height, picture.width, 3}, picture.rgb.data()));
    request.infer();
    const ov::Tensor output = request.get_output_tensor();
    const ov::Shape shape = output.get_shape();  // 1, H·scale, W·scale, 3
    const auto* bytes = output.data<std::uint8_t>();
    return Picture{shape[1], shape[2], std::vector<std::uint8_t>(bytes, bytes + output.get_size())};
}

int main(int argc, char** argv) try {
    if (argc < 5) {
        std::cerr << "usage: upscale_openvino GRAPH.onnx IN.ppm OUT.ppm SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]]\n";
        return 2;
    }
    const Tiling tiling = parse_tiling(argc - 4, argv + 4);
    const Picture picture = read_ppm(argv[2]);

    ov::Core core;
    ov::CompiledModel model = core.compile_model(
        std::string(argv[1]), "CPU",
        ov::hint::inference_precision(ov::element::f32),  // else fp32 graphs may run in bf16
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        ov::hint::enable_cpu_pinning(false));
    ov::InferRequest request = model.create_infer_request();

    const bool raw = model.input().get_element_type() == ov::element::u8;
    const auto run = [&](Picture& window) { return raw ? run_pixels(request, window) : run_floats(request, window); };
    write_ppm(argv[3], upscale_in_tiles(picture, tiling, run));
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
