# The CUDA kernels, where there is a CUDA compiler: adds them and their handlers to _core.

if(JAX_NA_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "No CUDA compiler was found: jax_na is built for CPUs alone")
    return()
  endif()
elseif(NOT JAX_NA_CUDA)
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES OFF) # each file names its own
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "The CUDA kernels need CUDA 12.4 or later, but nvcc is "
    "${CMAKE_CUDA_COMPILER_VERSION}; -DJAX_NA_CUDA=OFF builds for CPUs alone")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
find_package(CUDAToolkit REQUIRED)

# Machine code for Ampere and Ada (8.x) and for Hopper (9.0), and PTX for what comes after. All are
# made from one PTX: what Hopper gets from one of its own is the same but for some registers, in
# the three files that were compared, which took 35 to 43 % longer to compile.
set(architectures "SHELL:-gencode arch=compute_80,code=[sm_80,sm_90,compute_80]")

# One object library for each pass and element type: the instances of one file, from the table in
# cuda/instances.h. To spill registers is an error, but where the products of float32 take all of
# them: there a few counters go to local memory.
function(jax_na_cuda_kernels name source)
  add_library(jax_na_cuda_${name} OBJECT ${source})
  target_include_directories(jax_na_cuda_${name} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_compile_definitions(jax_na_cuda_${name} PRIVATE ${ARGN})
  target_compile_options(jax_na_cuda_${name} PRIVATE
    --expt-relaxed-constexpr -O3 ${architectures} -Xfatbin=-compress-all
    $<$<NOT:$<IN_LIST:JAX_NA_TABLE=32_BIT,${ARGN}>>:-Xptxas=-warn-lmem-usage,-warn-spills>
    $<$<BOOL:${JAX_NA_WERROR}>:--Werror=all-warnings>)
  set_target_properties(jax_na_cuda_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_sources(_core PRIVATE $<TARGET_OBJECTS:jax_na_cuda_${name}>)
  set_property(GLOBAL APPEND PROPERTY jax_na_cuda_kernels $<TARGET_OBJECTS:jax_na_cuda_${name}>)
endfunction()

foreach(pass forward query_gradient key_gradient)
  jax_na_cuda_kernels(${pass}_bfloat16 cuda/${pass}/instances.cu
    JAX_NA_ELEMENT=__nv_bfloat16 JAX_NA_TABLE=16_BIT)
  jax_na_cuda_kernels(${pass}_float16 cuda/${pass}/instances.cu
    JAX_NA_ELEMENT=__half JAX_NA_TABLE=16_BIT)
  jax_na_cuda_kernels(${pass}_float32 cuda/${pass}/instances.cu
    JAX_NA_ELEMENT=float JAX_NA_TABLE=32_BIT)
endforeach()
foreach(product scores combine inverse)
  jax_na_cuda_kernels(gemm_${product}_bfloat16 cuda/gemm/${product}.cu
    JAX_NA_ELEMENT=__nv_bfloat16 JAX_NA_TABLE=16_BIT)
  jax_na_cuda_kernels(gemm_${product}_float16 cuda/gemm/${product}.cu
    JAX_NA_ELEMENT=__half JAX_NA_TABLE=16_BIT)
  jax_na_cuda_kernels(gemm_${product}_float32 cuda/gemm/${product}.cu
    JAX_NA_ELEMENT=float JAX_NA_TABLE=32_BIT)
endforeach()
jax_na_cuda_kernels(gemm_softmax cuda/gemm/softmax.cu)
jax_na_cuda_kernels(gemm_bias_gradient cuda/gemm/bias_gradient.cu)
jax_na_cuda_kernels(additional_gradient cuda/additional_gradient.cu)
jax_na_cuda_kernels(bias_sums cuda/bias_sums.cu)
foreach(pass forward query_gradient key_gradient sum_parts unfused)
  jax_na_cuda_kernels(naive_${pass} cuda/naive/${pass}.cu)
endforeach()

# Machine code of one architecture alone has the instructions of its tensor cores and copy engine.
set(architectures "SHELL:-gencode arch=compute_90a,code=sm_90a")
jax_na_cuda_kernels(hopper_bfloat16 cuda/hopper/instances.cu JAX_NA_ELEMENT=__nv_bfloat16)
jax_na_cuda_kernels(hopper_float16 cuda/hopper/instances.cu JAX_NA_ELEMENT=__half)
jax_na_cuda_kernels(hopper_backward_bfloat16 cuda/hopper/backward/instances.cu
  JAX_NA_ELEMENT=__nv_bfloat16)
jax_na_cuda_kernels(hopper_backward_float16 cuda/hopper/backward/instances.cu JAX_NA_ELEMENT=__half)
jax_na_cuda_kernels(hopper_backward_around cuda/hopper/backward/around.cu)
jax_na_cuda_kernels(hopper_query_gradient_bfloat16 cuda/hopper/query_gradient/instances.cu
  JAX_NA_ELEMENT=__nv_bfloat16)
jax_na_cuda_kernels(hopper_query_gradient_float16 cuda/hopper/query_gradient/instances.cu
  JAX_NA_ELEMENT=__half)

set(launches cuda/backward_choice.cc cuda/device.cc cuda/dispatch.cc cuda/forward_choice.cc cuda/fused.cc cuda/plan.cc
  cuda/gemm/gemm.cc
  cuda/hopper/cost.cc cuda/hopper/forward.cc cuda/hopper/maps.cc
  cuda/hopper/plan.cc cuda/hopper/tensor_map.cc cuda/hopper/turn.cc
  cuda/hopper/backward/backward.cc cuda/hopper/backward/maps.cc cuda/hopper/backward/plan.cc
  cuda/hopper/query_gradient/query_gradient.cc
  cuda/naive/naive.cc)
target_sources(_core PRIVATE ${launches}
  cuda/handlers.cc cuda/naive/handlers.cc ffi/unfused_arguments.cc)
target_compile_definitions(_core PRIVATE JAX_NA_CUDA)
target_include_directories(_core SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
# The runtime comes along, without its symbols, so that the library loads where there is no CUDA.
target_link_libraries(_core PRIVATE CUDA::cudart_static)
target_link_options(_core PRIVATE "LINKER:--exclude-libs,ALL")

# The programs that docs/emulation.md describes, for a GPU.
option(JAX_NA_CUDA_TESTS "Build programs that run every CUDA kernel" OFF)
if(JAX_NA_CUDA_TESTS)
  get_property(every_kernel GLOBAL PROPERTY jax_na_cuda_kernels)
  set(tests cuda/emulation/tests)
  add_library(jax_na_cuda_cases STATIC ${tests}/cases.cc ${tests}/reference.cc ${tests}/on_gpu.cc
    ${launches} ${every_kernel})
  target_link_libraries(jax_na_cuda_cases PUBLIC jax_na_options CUDA::cudart_static)
  target_include_directories(jax_na_cuda_cases SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
  foreach(test attention gemm hopper hopper_backward naive unfused)
    add_executable(${test}_test ${tests}/${test}_test.cc)
    target_link_libraries(${test}_test PRIVATE jax_na_cuda_cases)
  endforeach()
endif()
