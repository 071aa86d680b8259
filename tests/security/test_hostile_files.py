"""Files made to do harm: nothing in them runs, nothing outside the work dir changes, and memory stays bounded.

Each case writes a file, gives it to the tool that reads such files, and expects one line ``error: ...`` and exit code
2, in a process whose memory is limited and whose actions are watched. More ways of a pickle to reach a function are in
``tests/checkpoint/test_hostile_checkpoint.py``.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_coco import make_tiny_coco, write_user_config
from watched import REPO, run_watched, tool

from mmyolo_ext.export import runtime

CASES: dict[str, tuple[Callable, str]] = {}
KERNEL = 'width=32\nheight=32\nchannels=3\n'
VOC_BODY = (
    '<annotation><size><width>9</width><height>9</height></size><object><name>cat</name>{}</object></annotation>'
)


def case(message: str) -> Callable:
    """Register a function (folder) -> action to run; ``message`` must be in its line of error."""

    def register(make: Callable) -> Callable:
        CASES[make.__name__.replace('_', ' ')] = make, message
        return make

    return register


def command(folder: Path) -> str:
    return f'touch {folder / "canary"}'


class Runs:
    """Pickled, it is a call of os.system; with ``evaluated``, one of eval."""

    def __init__(self, folder: Path, evaluated: bool = False) -> None:
        self.call = (
            (eval, (f'__import__("os").system({command(folder)!r})',))
            if evaluated
            else (os.system, (command(folder),))
        )

    def __reduce__(self) -> tuple:
        return self.call


def convert(folder: Path, content: bytes | None = None) -> Callable:
    """``tools/convert_weights.py`` on ``some.pt``."""
    if content is not None:
        (folder / 'some.pt').write_bytes(content)
    return tool('convert_weights.py', folder / 'some.pt', folder / 'out.pth')


def zipped(data: bytes, **entries: bytes) -> bytes:
    """A zip as torch writes it, with this pickle and other entries, whose names have ``/`` for ``__``."""
    stream = io.BytesIO()
    torch.save({'w': torch.zeros(2)}, stream)
    stream.seek(0)
    with zipfile.ZipFile(stream) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for name, part in {**parts, **{key.replace('__', '/'): value for key, value in entries.items()}}.items():
            archive.writestr(name, data if name.endswith('/data.pkl') else part)
    return out.getvalue()


# pickles


@case('refused, and nothing of it has run: it asks for posix.system')
def pickle_in_a_zip(folder: Path) -> Callable:
    torch.save({'state_dict': {}, 'x': Runs(folder)}, folder / 'some.pt')
    return convert(folder)


@case('refused, and nothing of it has run: it asks for posix.system')
def pickle_before_torch_1_6(folder: Path) -> Callable:
    torch.save({'x': Runs(folder)}, folder / 'some.pt', _use_new_zipfile_serialization=False)
    return convert(folder)


@case('refused, and nothing of it has run: it asks for posix.system')
def pickle_alone(folder: Path) -> Callable:
    return convert(folder, pickle.dumps({'x': Runs(folder)}))


@case('refused, and nothing of it has run: it asks for builtins.eval')
def pickle_with_eval(folder: Path) -> Callable:
    return convert(folder, zipped(pickle.dumps({'x': Runs(folder, evaluated=True)}, protocol=2)))


@case('cannot be read as a file of torch.save')
def pickle_in_a_tar(folder: Path) -> Callable:
    part = pickle.dumps(Runs(folder), protocol=2)
    with tarfile.open(folder / 'some.pt', 'w') as archive:
        for name in ('sys_info', 'pickle', 'storages', '../../canary'):
            entry = tarfile.TarInfo(name)
            entry.size = len(part)
            archive.addfile(entry, io.BytesIO(part))
    return convert(folder)


@case('a program of TorchScript')
def torchscript(folder: Path) -> Callable:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / 'some.pt'))
    return convert(folder)


@case('a program of TorchScript')
def torchscript_entry_in_a_checkpoint(folder: Path) -> Callable:
    return convert(
        folder,
        zipped(pickle.dumps({}, protocol=2), archive__constants_pkl=b'').replace(b'constants_pkl', b'constants.pkl'),
    )


@case('it asks for torch.hub.load')
def pickle_of_torch_hub(folder: Path) -> Callable:
    return convert(folder, b'\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x00a\x85R.')


@case('it asks for a state for')
def pickle_that_changes_a_function(folder: Path) -> Callable:
    return convert(folder, b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aK\x01s\x86b.')


@case('a storage that is not as torch writes it')
def pickle_in_a_pickle(folder: Path) -> Callable:
    inner = zipped(pickle.dumps(Runs(folder), protocol=2))
    return convert(
        folder, b'\x80\x03ctorch.storage\n_load_from_bytes\nB' + struct.pack('<I', len(inner)) + inner + b'\x85R.'
    )


@case('it asks for getattr')
def pickle_of_getattr(folder: Path) -> Callable:
    return convert(folder, b'\x80\x02c__builtin__\ngetattr\nK\x01X\x01\x00\x00\x00a\x86R.')


# sizes in checkpoints


@case('which the file does not hold')
def storage_of_terabytes(folder: Path) -> Callable:
    call = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu\x8a\x06\0\0\0\0\0\x01tQ'
    return convert(folder, zipped(b'\x80\x02' + call + b'.'))


@case('which the file does not hold')
def many_storages_of_the_size_of_the_file(folder: Path) -> Callable:
    start = [torch.serialization.MAGIC_NUMBER, 1001, {'little_endian': True}]
    content = b''.join(pickle.dumps(part, protocol=2) for part in start) + b'\x80\x02]('
    for number in range(100, 999):
        content += (
            b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x03\x00\x00\x00%dX\x03\x00\x00\x00cpuJ\0\xe0\0\0NtQ'
            % number
        )
    return convert(folder, content + b'e.' + pickle.dumps([], protocol=2) + bytes(300_000))


@case('elements from a storage of')
def tensor_of_terabytes_on_a_small_storage(folder: Path) -> Callable:
    torch.save(torch.zeros(1).expand(2**20, 2**20), folder / 'some.pt')
    return convert(folder)


@case('cannot be read as a file of torch.save')
def bytearray_of_terabytes(folder: Path) -> Callable:
    return convert(folder, b'\x80\x05\x96' + struct.pack('<Q', 2**42) + b'.')


@case('cannot be read as a file of torch.save')
def text_of_terabytes(folder: Path) -> Callable:
    return convert(folder, b'\x80\x04\x8d' + struct.pack('<Q', 2**42) + b'.')


@case('by references or to itself')
def list_of_itself(folder: Path) -> Callable:
    content = []
    content.append(content)
    return convert(folder, pickle.dumps({'state_dict': content}))


@case('by references or to itself')
def lists_of_lists_of_lists_by_reference(folder: Path) -> Callable:
    content = [0]
    for _ in range(30):
        content = [content] * 10
    return convert(folder, pickle.dumps(content))


@case('levels deep')
def lists_nested_deeply(folder: Path) -> Callable:
    return convert(folder, b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.')


# archives


@case('a file outside of the archive')
def zip_that_leads_out(folder: Path) -> Callable:
    return convert(folder, zipped(pickle.dumps({}, protocol=2), **{'..__..__canary': b'x'}))


@case('a file outside of the archive')
def zip_with_an_absolute_name(folder: Path) -> Callable:
    return convert(folder, zipped(pickle.dumps({}, protocol=2), **{str(folder / 'canary'): b'x'}))


@case('times its own size')
def zip_that_unpacks_to_a_quarter_of_a_gigabyte(folder: Path) -> Callable:
    with zipfile.ZipFile(folder / 'some.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('some/data.pkl', pickle.dumps({}))
        with archive.open('some/data/0', 'w', force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(2**22))
    return convert(folder)


@case('times its own size')
def zip_of_overlapping_entries(folder: Path) -> Callable:
    with zipfile.ZipFile(folder / 'some.pt', 'w') as archive:
        archive.writestr('some/data.pkl', pickle.dumps({}))
        archive.writestr('some/data/0', bytes(2**20))
        last = archive.infolist()[-1]
        for number in range(1, 200):
            again = zipfile.ZipInfo(f'some/data/{number}')
            again.header_offset, again.file_size, again.compress_size, again.CRC = (
                last.header_offset,
                2**20,
                2**20,
                last.CRC,
            )
            archive.filelist.append(again)
    return convert(folder)


@case('asks for')
def zip_with_a_symbolic_link(folder: Path) -> Callable:
    (folder / 'some.pt').write_bytes(zipped(pickle.dumps(Runs(folder), protocol=2)))
    with zipfile.ZipFile(folder / 'some.pt', 'a') as archive:
        link = zipfile.ZipInfo('archive/link')
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(folder / 'canary'))
    return convert(folder)


# what stands in meta


def published(folder: Path, meta: dict) -> Callable:
    write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'))
    from mmengine.registry import init_default_scope

    from mmyolo_ext.apis import load_config
    from mmyolo_ext.registry import MODELS

    init_default_scope('mmdet')
    model = MODELS.build(load_config(folder / 'mine.py').model)
    content = {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': ('red', 'blue')}, **meta}}
    torch.save(content, folder / 'some.pth')
    return tool('publish.py', folder / 'mine.py', folder / 'some.pth', '--out', folder / 'out' / 'x.pth')


@case('line 2 of the config has Import')
def code_in_the_config(folder: Path) -> Callable:
    return published(folder, {'cfg': f'model = dict()\nimport os\nos.system({command(folder)!r})\n'})


@case('line 1 of the config has Call')
def call_in_the_config(folder: Path) -> Callable:
    return published(folder, {'cfg': f'model = dict(a=[open({str(folder / "canary")!r}, "w")])\n'})


@case('nested more than 60 levels deep')
def config_nested_deeply(folder: Path) -> Callable:
    return published(folder, {'cfg': 'model = ' + '[' * 100_000})


# exported files


def exported(folder: Path, **changed: object) -> Callable:
    """``tools/test_exported.py`` on a graph of one node with metadata, some of which are changed."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    rules = {
        'format': 1, 'mmyolo_ext': '0', 'names': ['a'], 'size_hw': [32, 32], 'strides': [8, 16, 32], 'dynamic': False,
        'precision': 'float32', 'channels': 'RGB', 'mean': [0, 0, 0], 'std': [255, 255, 255],
        'letterbox': {'pad_val': 114, 'centred': False, 'allow_upscale': True, 'interpolation': 'bilinear'},
        'activation': 'sigmoid', 'multi_label': False, 'nms_in_graph': False, 'score_thr': 0.0, 'nms_pre': 9,
        'nms_iou': 0.5, 'class_agnostic': False, 'max_per_img': 9, **changed,
    }  # fmt: skip
    nodes = [helper.make_node('Identity', ['images'], [name]) for name in ('boxes', 'scores')]
    values = [helper.make_tensor_value_info(name, kind, [1, 3, 32, 32]) for name in ('images', 'boxes', 'scores')]
    model = helper.make_model(helper.make_graph(nodes, 'g', values[:1], values[1:]), ir_version=8)
    model.opset_import[0].version = 17
    texts = {key: value if isinstance(value, bytes) else json.dumps(value) for key, value in rules.items()}
    helper.set_model_props(
        model, {key: value.decode() if isinstance(value, bytes) else value for key, value in texts.items()}
    )
    onnx.save(model, str(folder / 'm.onnx'))
    write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'))
    return tool('test_exported.py', folder / 'mine.py', folder / 'm.onnx')


@case('std = [0, 0, 0]: it must be three numbers')
def onnx_that_divides_by_zero(folder: Path) -> Callable:
    return exported(folder, std=[0, 0, 0])


@case('the input may have')
def onnx_with_an_input_of_gigabytes(folder: Path) -> Callable:
    return exported(folder, size_hw=[2**20, 2**20], dynamic=True)


@case('size_hw = []: it must be two whole numbers')
def onnx_without_a_size(folder: Path) -> Callable:
    return exported(folder, size_hw=[])


@case('strides = [0]: it must be')
def onnx_with_a_stride_of_zero(folder: Path) -> Callable:
    return exported(folder, strides=[0])


@case('score_thr = nan: it must be')
def onnx_with_a_threshold_that_is_no_number(folder: Path) -> Callable:
    return exported(folder, score_thr=float('nan'))


@case('metadata that is not JSON')
def onnx_with_deep_json(folder: Path) -> Callable:
    return exported(folder, names=b'[' * 100_000)


@case('metadata that is not JSON')
def onnx_with_a_huge_number(folder: Path) -> Callable:
    return exported(folder, nms_pre=b'9' * 100_000)


@case("names = {'__class__': 'x'}: it must be a list")
def onnx_with_names_that_are_no_list(folder: Path) -> Callable:
    return exported(folder, names={'__class__': 'x'})


@case('cannot read')
def onnx_that_reads_another_file(folder: Path) -> Callable:
    onnx = pytest.importorskip('onnx')
    action = exported(folder)
    (folder / 'sub').mkdir()
    (folder / 'secret').write_bytes(bytes(12))
    model = onnx.load(str(folder / 'm.onnx'))
    weight = model.graph.initializer.add(name='w', data_type=onnx.TensorProto.FLOAT, dims=[3])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {'location': '../secret', 'length': '12'}.items():
        weight.external_data.add(key=key, value=value)
    model.graph.node[0].input[0] = 'w'
    (folder / 'sub' / 'm.onnx').write_bytes(model.SerializeToString())
    assert action
    return tool('test_exported.py', folder / 'mine.py', folder / 'sub' / 'm.onnx')


# annotations in XML


def voc(folder: Path, text: str, name: str = 'one') -> Callable:
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / 'voc' / part).mkdir(parents=True)
    (folder / 'voc/Annotations/one.xml').write_text(text)
    (folder / 'voc/JPEGImages/one.jpg').write_bytes(b'x')
    (folder / 'voc/ImageSets/Main/train.txt').write_text(name)
    return tool('dataset_converters/voc2coco.py', folder / 'voc', folder / 'out')


@case("declares the document type or entity 'lol'")
def xml_of_a_billion_laughs(folder: Path) -> Callable:
    entities = ''.join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    return voc(folder, f'<!DOCTYPE lol [<!ENTITY l0 "lol">{entities}]>' + VOC_BODY.format('&l11;'))


@case('declares the document type or entity')
def xml_with_a_file_as_entity(folder: Path) -> Callable:
    return voc(folder, '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + VOC_BODY.format('&x;'))


@case('declares the document type or entity')
def xml_with_a_type_from_elsewhere(folder: Path) -> Callable:
    return voc(folder, '<!DOCTYPE a SYSTEM "http://localhost:1/canary.dtd">' + VOC_BODY.format(''))


@case('without a readable bndbox')
def xml_nested_deeply(folder: Path) -> Callable:
    return voc(folder, VOC_BODY.format('<a>' * 200_000 + '</a>' * 200_000))


@case('is outside of the annotation folder')
def list_of_images_that_leads_out(folder: Path) -> Callable:
    return voc(folder, VOC_BODY.format(''), name='../../../etc/passwd')


@case('has a size of inf x 9 px')
def xml_with_an_endless_image(folder: Path) -> Callable:
    return voc(folder, VOC_BODY.format('').replace('<width>9<', '<width>1e999<'))


# annotations in JSON


def trained(folder: Path, change: Callable[[str], str]) -> Callable:
    """``tools/train.py`` with changed annotations."""
    annotated(folder, change)
    return tool('train.py', folder / 'mine.py', '--work-dir', folder / 'run')


def annotated(folder: Path, change: Callable[[str], str]) -> Callable:
    """The training dataset with changed annotations."""
    data = make_tiny_coco(folder / 'data')
    write_user_config(folder / 'mine.py', data)
    (data / 'train.json').write_text(change((data / 'train.json').read_text()))

    def run() -> None:
        from mmengine.registry import init_default_scope

        from mmyolo_ext.apis import load_config
        from mmyolo_ext.cli.common import tool
        from mmyolo_ext.registry import DATASETS

        init_default_scope('mmdet')
        dataset = load_config(folder / 'mine.py').train_dataloader.dataset
        tool(lambda: DATASETS.build(dataset))()

    return run


@case('nested too deeply')
def json_nested_deeply(folder: Path) -> Callable:
    return trained(folder, lambda text: '{"images": ' + '[' * 200_000)


@case('cannot read annotation file')
def json_with_a_huge_number(folder: Path) -> Callable:
    return annotated(folder, lambda text: text.replace('"width": 64', '"width": ' + '9' * 100_000, 1))


@case('must be integers above 0')
def json_with_an_image_of_billions_of_pixels(folder: Path) -> Callable:
    return annotated(folder, lambda text: text.replace('"width": 64', '"width": 1e300', 1))


@case('is outside')
def json_with_a_file_name_that_leads_out(folder: Path) -> Callable:
    return annotated(folder, lambda text: text.replace('000.png', '../../../../../../etc/passwd', 1))


@case('is an absolute path')
def json_with_an_absolute_file_name(folder: Path) -> Callable:
    return annotated(folder, lambda text: text.replace('000.png', '/etc/passwd', 1))


@case('is a URL')
def json_with_an_address(folder: Path) -> Callable:
    return annotated(folder, lambda text: text.replace('000.png', 'http://localhost:1/canary.png', 1))


# YAML


def yaml_config(folder: Path, text: str) -> Callable:
    (folder / 'data.yaml').write_text(text)
    return tool('train.py', folder / 'data.yaml', '--work-dir', folder / 'run')


@case('could not determine a constructor')
def yaml_that_calls_a_function(folder: Path) -> Callable:
    return yaml_config(folder, f'names: !!python/object/apply:os.system ["{command(folder)}"]\n')


@case('by references or to itself')
def yaml_of_a_billion_laughs(folder: Path) -> Callable:
    lines = [f'l{i}: &l{i} [{", ".join([f"*l{i - 1}"] * 10)}]' for i in range(1, 12)]
    return yaml_config(folder, '\n'.join(['l0: &l0 [lol]', *lines]))


@case('levels deep')
def yaml_nested_deeply(folder: Path) -> Callable:
    return yaml_config(folder, 'a: ' + '[' * 500 + ']' * 500)


# Darknet


def darknet(folder: Path, sections: str, weights: bytes = b'\0\0\0\0\2\0\0\0\5\0\0\0' + bytes(8)) -> Callable:
    (folder / 'some.cfg').write_text(f'[net]\n{KERNEL}{sections}')
    (folder / 'some.weights').write_bytes(weights)
    return tool('convert_weights.py', folder / 'some.weights', folder / 'out.pth', '--config', folder / 'some.cfg')


LAYERS = """[convolutional]
filters=2
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=3,4
classes=1
"""


@case('has more than 1,073,741,824 cells')
def cfg_with_billions_of_filters(folder: Path) -> Callable:
    return darknet(folder, LAYERS.replace('filters=2', 'filters=2000000000'))


@case('the network has more than 536,870,912 weights')
def cfg_with_kernels_that_fill_the_memory(folder: Path) -> Callable:
    return darknet(folder, LAYERS.replace('filters=2\nsize=3', 'filters=2000\nsize=999'))


@case('size must be a whole number from 1 to 1000')
def cfg_with_a_kernel_of_kilometres(folder: Path) -> Callable:
    return darknet(folder, LAYERS.replace('size=3', 'size=100001'))


@case('has more than 1,073,741,824 cells')
def cfg_that_makes_the_map_endless(folder: Path) -> Callable:
    return darknet(folder, '[upsample]\nstride=100000\n' + LAYERS)


@case('must be a whole number')
def cfg_with_a_number_of_thousands_of_digits(folder: Path) -> Callable:
    return darknet(folder, LAYERS.replace('filters=2', 'filters=' + '9' * 10_000))


@case('the file is truncated')
def weights_with_nothing_after_the_header(folder: Path) -> Callable:
    return darknet(folder, LAYERS)


# images


def predicted(folder: Path, content: bytes) -> Callable:
    (folder / 'm').mkdir()
    exported(folder)
    (folder / 'some.png').write_bytes(content)

    def run() -> None:
        from mmyolo_ext.cli.common import tool

        tool(lambda: runtime.read_image(folder / 'some.png'))()

    return run


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header states this number of pixels, all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    pixels = b''.join(packer.compress(row) for _ in range(min(height, 100))) + packer.flush()
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return runtime.PNG_START + chunk(b'IHDR', head) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


@case('cannot be decoded')
def png_of_gigabytes(folder: Path) -> Callable:
    return predicted(folder, png(30_000, 30_000))


@case('cannot be decoded')
def png_wider_than_any_image(folder: Path) -> Callable:
    return predicted(folder, png(2_000_000, 1))


@pytest.mark.parametrize('name', CASES)
def test_a_file_does_no_harm(tmp_path: Path, name: str) -> None:
    make, message = CASES[name]
    action = make(tmp_path)
    ended = run_watched(action, tmp_path)
    assert ended.faults == [], ended.errors
    lines = [line for line in ended.errors.splitlines() if line.startswith('error: ')]
    assert ended.code == 2 and len(lines) == 1 and 'Traceback' not in ended.errors, ended
    assert message in lines[0]


def test_there_are_forty() -> None:
    assert len(CASES) >= 40


def test_harm_would_be_seen(tmp_path: Path) -> None:
    outside = tmp_path / 'outside'
    (tmp_path / 'in').mkdir()
    outside.write_text('x')
    actions = {
        'os.system': lambda: pickle.loads(pickle.dumps(Runs(tmp_path / 'in'))),
        'os.remove': outside.unlink,
        'open': lambda: (tmp_path / 'other').write_text('x'),
        'the canary': lambda: (tmp_path / 'in' / 'canary').touch(),
    }
    for event, action in actions.items():
        assert any(fault.startswith(event) for fault in run_watched(action, tmp_path / 'in').faults), event
        (tmp_path / 'in' / 'canary').unlink(missing_ok=True)
    ended = run_watched(lambda: bytearray(4 * 2**30), tmp_path / 'in')
    assert ended.code == 1 and 'MemoryError' in ended.errors


def test_a_config_in_another_tools_checkpoint_is_not_run(tmp_path: Path) -> None:
    """The anchors of MMYOLO's checkpoints are read from the text of their config."""
    from mmyolo_ext.checkpoint.conversion import anchors_of_config

    text = f'import os\nos.system({command(tmp_path)!r})\nmodel = dict(base_sizes=[[(1, 2)]], a=open("canary", "w"))'
    found = []
    ended = run_watched(lambda: found.append(anchors_of_config(text)), tmp_path)
    assert (ended.code, ended.faults) == (0, [])


@pytest.mark.parametrize('key', ['cfg', 'config'])
def test_resuming_runs_and_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Code in meta, and paths in message_hub that MMEngine would delete when a better checkpoint comes."""
    monkeypatch.syspath_prepend(REPO / 'tests' / 'engine')
    from toy_runner import toy_runner

    work_dir, outside = tmp_path / 'run', tmp_path / 'outside'
    outside.mkdir()
    victims = [outside / 'best_x_epoch_1.pth', outside / 'folder', work_dir / 'epoch_9.pth.txt']
    toy_runner(work_dir, max_epochs=1).train()
    (path,) = work_dir.glob('epoch_1.pth')
    for victim in victims[::2]:
        victim.write_text('keep me')
    victims[1].mkdir()
    content = torch.load(path, weights_only=True)
    content['meta'][key] = f'import os\nos.system({command(tmp_path)!r})\n'
    content['message_hub'] = {
        'runtime_info': OrderedDict(
            best_ckpt=str(victims[0]),
            last_ckpt=str(victims[1]),
            best_ckpt_x='../outside',
            keep_ckpt_ids=[str(victims[1])],
        ),
        'resumed_keys': dict.fromkeys(('best_ckpt', 'last_ckpt', 'best_ckpt_x', 'keep_ckpt_ids'), True),
        'log_scalars': {'x': {'log': 'no', 'count': None, 'max_length': 2**70}},
    }
    (work_dir / 'hostile').mkdir()
    torch.save(content, work_dir / 'hostile' / 'epoch_1.pth')

    def resume() -> None:
        toy_runner(work_dir, max_epochs=1, resume=True, load_from=str(work_dir / 'hostile' / 'epoch_1.pth')).train()

    ended = run_watched(resume, tmp_path)
    assert ended.faults == [] and ended.code == 0, ended.errors
    assert all(victim.exists() for victim in victims)
