"""The operations that a .pt2 file may name: those that networks are made of, by their names in ATen.

A list of what is refused was never complete: torch also registers, under the same prefix, what writes files and sets
the seed of the process, and operations for its own use that take sizes and places of memory on trust.
"""

_NAMES = """
abs acos acosh add addbmm addcdiv addcmul addmm addmv alias amax amin aminmax any all arange argmax argmin argsort
asin asinh atan atan2 atanh baddbmm bmm bucketize ceil celu clamp clamp_max clamp_min copy cos cosh cross cumprod
cumsum deg2rad det diff div dot dist einsum eq erf erfc exp exp2 expm1 floor floor_divide fmax fmin fmod frac ge gt
heaviside hypot isclose isfinite isinf isnan kthvalue le lerp linalg_norm linalg_vector_norm linalg_cross log log10
log1p log2 logaddexp logcumsumexp logical_and logical_not logical_or logical_xor logsumexp lt matmul max maximum mean
median min minimum mm mul multiply mv nan_to_num ne neg norm nonzero outer pow prod quantile rad2deg reciprocal
remainder round rsqrt rsub searchsorted sgn sigmoid sign sin sinc sinh sort sqrt square std std_mean sub subtract sum
tan tanh topk trace true_divide trunc unique_consecutive unique_dim var var_mean xlogy bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__
__ixor__

as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat channel_shuffle chunk clone concat
concatenate constant_pad_nd contiguous detach diag_embed diagonal dsplit dstack empty_like expand expand_as fill
flatten flip fliplr flipud full full_like gather hsplit hstack im2col col2im index index_add index_copy index_fill
index_put index_select item lift_fresh lift_fresh_copy linspace masked_fill masked_scatter masked_select meshgrid
moveaxis movedim mT narrow new_empty new_full new_ones new_zeros numel numpy_T one_hot ones ones_like pad permute
pixel_shuffle pixel_unshuffle promote_types ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat
repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as result_type roll rot90
scalar_tensor scatter scatter_add scatter_reduce select select_scatter size slice slice_scatter split split_with_sizes
squeeze stack swapaxes swapdims sym_numel sym_size sym_storage_offset sym_stride t take take_along_dim tensor_split
tile to transpose tril triu type_as unbind unflatten unfold unsqueeze view view_as view_as_complex view_as_real vsplit
vstack where zero zeros zeros_like _to_copy

adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear conv1d conv2d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d convolution cosine_similarity dropout elu embedding
feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn
fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn gelu glu grid_sampler grid_sampler_2d
grid_sampler_3d affine_grid_generator group_norm hardshrink hardsigmoid hardswish hardtanh instance_norm layer_norm
leaky_relu linear log_sigmoid log_softmax max_pool1d max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices mish native_batch_norm native_dropout native_group_norm native_layer_norm normal
pairwise_distance prelu rand rand_like randint randn randn_like randperm relu relu6 rms_norm rrelu
scaled_dot_product_attention selu silu softmax softplus softshrink threshold uniform bernoulli upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_softmax _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _weight_norm _fused_rms_norm

_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
"""
OPERATIONS = frozenset(_NAMES.split())


def is_operation(name: str) -> bool:
    """Whether ATen's operation of this name is one of a network; `add_` is `add` that writes into its first tensor."""
    return name in OPERATIONS or (name.endswith("_") and not name.startswith("_") and name[:-1] in OPERATIONS)
