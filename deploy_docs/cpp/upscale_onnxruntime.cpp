// upscale_onnxruntime GRAPH.onnx IN.ppm OUT.ppm SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]]
// The same with a graph of floats on ONNX Runtime, through the C++ header over its C API.
//
// NOT BUILT HERE: the wheel carries no headers. With a release archive of ONNX Runtime unpacked in $ORT:
//   g++ -std=c++17 -O2 -I$ORT/include upscale_onnxruntime.cpp -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o upscale_onnxruntime
#include <array>
#include <cstdint>
#include <exception>
#include <iostream>

#include <onnxruntime_cxx_api.h>

#include "tensor.hpp"
#include "tiles.hpp"

int main(int argc, char** argv) try {
    if (argc < 5) {
        std::cerr << "usage: upscale_onnxruntime GRAPH.onnx IN.ppm OUT.ppm SCALE [TILE HALO [ALIGNMENT MULTIPLE_OF LEAST_SIDE]]\n";
        return 2;
    }
    const Tiling tiling = parse_tiling(argc - 4, argv + 4);
    const Picture picture = read_ppm(argv[2]);

    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "sredge");
    Ort::SessionOptions options;
    Ort::Session session(environment, argv[1], options);  // on Windows the path is a wide string
    Ort::AllocatorWithDefaultOptions allocator;
    const auto input_name = session.GetInputNameAllocated(0, allocator);
    const auto output_name = session.GetOutputNameAllocated(0, allocator);
    const char* input_names[] = {input_name.get()};
    const char* output_names[] = {output_name.get()};

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto run = [&](const Picture& window) {
        std::vector<float> planes(3 * window.height * window.width);
        to_network(window, planes.data());
        const std::array<std::int64_t, 4> shape = {1, 3, static_cast<std::int64_t>(window.height),
                                                   static_cast<std::int64_t>(window.width)};
        const Ort::Value input =
            Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(), shape.data(), shape.size());
        auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names, &input, 1, output_names, 1);
        const auto larger = outputs[0].GetTensorTypeAndShapeInfo().GetShape();  // 1, 3, H·scale, W·scale
        return from_network(outputs[0].GetTensorData<float>(), static_cast<std::size_t>(larger[2]),
                            static_cast<std::size_t>(larger[3]));
    };
    write_ppm(argv[3], upscale_in_tiles(picture, tiling, run));
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
