"""No file makes the reader of checkpoints call, import or change anything.

The pickles are written instruction by instruction, by which a file may reach a function in more ways than Python's
own pickling uses. Each is tried as torch's zip, as torch's format before 1.6, and as a plain pickle; each that
Python would run is seen to run there, so that the test cannot pass by a pickle that is merely broken.
"""

import collections
import copyreg
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmyolo_ext.checkpoint.pickle_objects import StandIn
from mmyolo_ext.checkpoint.safe_load import read_checkpoint

FORMS = ('zip', 'before torch 1.6', 'pickle')


def text(value: str) -> bytes:
    """BINUNICODE."""
    content = value.encode()
    return b'X' + len(content).to_bytes(4, 'little') + content


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f'c{module}\n{attribute}\n'.encode()


def stack_name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(attribute) + b'\x93'


CALL = b'\x85R'  # TUPLE1 REDUCE
COMMAND = b'CMD'  # replaced by an instruction that pushes the command to run
# what stands between PROTO and STOP
RUNS = {
    'reduce': name('os', 'system') + COMMAND + CALL,
    'reduce, by the name of its module': name('posix', 'system') + COMMAND + CALL,
    'stack global': stack_name('os', 'system') + COMMAND + CALL,
    'stack global, dotted': stack_name('subprocess', 'os.system') + COMMAND + CALL,
    'inst': b'(' + COMMAND + b'ios\nsystem\n',
    'obj': b'(' + name('os', 'system') + COMMAND + b'o',
    'nested in a dict': b'}' + text('model') + b'}' + text('x') + name('os', 'system') + COMMAND + CALL + b'ss',
    'key of a dict': b'}' + name('os', 'system') + COMMAND + CALL + b'K\x01s',
    'in a state': (
        name('collections', 'OrderedDict') + b')R}' + text('a') + name('os', 'system') + COMMAND + CALL + b'sb'
    ),
    'popped': name('os', 'system') + COMMAND + CALL + b'0N',
    'through the memo': name('os', 'system') + b'q\x000' + b'h\x00' + COMMAND + CALL,
    'getattr': name('__builtin__', 'getattr') + b'c__builtin__\n__import__\n' + text('os') + CALL
    + text('system') + b'\x86R' + COMMAND + CALL,
    'getattr of Python 3': stack_name('builtins', 'getattr') + stack_name('builtins', '__import__') + text('os') + CALL
    + text('system') + b'\x86R' + COMMAND + CALL,
    'eval': name('__builtin__', 'eval') + b'CMDEVAL' + CALL,
    'attrgetter': name('operator', 'attrgetter') + text('system') + CALL + name('__builtin__', '__import__')
    + text('os') + CALL + CALL + COMMAND + CALL,
    'partial': name('functools', 'partial') + name('os', 'system') + COMMAND + b'\x86R)R',
    'state with a function': name('types', 'SimpleNamespace') + b')R' + name('os', 'system') + COMMAND + CALL + b'b',
    'torch calls it': name('torch._tensor', '_rebuild_from_type_v2') + b'(' + name('os', 'system') + b'N' + COMMAND
    + b'\x85}tR',
    'copyreg calls it': name('copy_reg', '__newobj__') + name('subprocess', 'Popen') + b'CMDLIST' + b'\x86R',
    'newobj': name('subprocess', 'Popen') + b'CMDLIST' + b'\x85\x81' + name('os', 'wait') + b')R',
    'newobj_ex': name('subprocess', 'Popen') + b'CMDLIST' + b'\x85}\x92',
}  # fmt: skip


def hostile(template: bytes, marker: Path) -> bytes:
    """A pickle of protocol 2, or 4 where that has to name things by dots, that makes the marker if it is run."""
    listed = b']' + text('touch') + b'a' + text(str(marker)) + b'a'
    evaluated = text(f'__import__("os").system("touch {marker}")')
    body = template.replace(b'CMDLIST', listed).replace(b'CMDEVAL', evaluated)
    protocol = b'\x80\x04' if b'os.system' in body or b'builtins' in body.replace(b'__builtin__', b'') else b'\x80\x02'
    return protocol + body.replace(b'CMD', text(f'touch {marker}')) + b'.'


def write(path: Path, content: bytes, form: str) -> Path:
    """The pickle in a file that is whole in every other way."""
    if form == 'pickle':
        path.write_bytes(content)
    elif form == 'zip':
        torch.save({'w': torch.zeros(2)}, path)
        with zipfile.ZipFile(path) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, 'w') as archive:
            for entry, part in parts.items():
                archive.writestr(entry, content if entry.endswith('/data.pkl') else part)
    else:
        start = [torch.serialization.MAGIC_NUMBER, 1001, {'little_endian': True}]
        pickles = [*(pickle.dumps(part, protocol=2) for part in start), content, pickle.dumps([], protocol=2)]
        path.write_bytes(b''.join(pickles))
    return path


@pytest.mark.parametrize('case', RUNS)
def test_nothing_runs(tmp_path: Path, case: str) -> None:
    marker = tmp_path / 'ran'
    content = hostile(RUNS[case], marker)
    for form in FORMS:
        path = write(tmp_path / 'some.pt', content, form)
        with pytest.raises(ValueError, match=r'some\.pt is refused, and nothing of it has run: it asks for'):
            read_checkpoint(path)
        assert not marker.exists(), form


@pytest.mark.parametrize('case', ['reduce', 'inst', 'obj', 'stack global', 'eval', 'attrgetter', 'in a state'])
def test_python_would_run_it(tmp_path: Path, case: str) -> None:
    marker = tmp_path / 'ran'
    pickle.loads(hostile(RUNS[case], marker))
    assert marker.exists()


@pytest.mark.parametrize(
    ('module', 'attribute'),
    [
        ('os', 'system'),
        ('nt', 'system'),
        ('builtins', 'exec'),
        ('__builtin__', 'apply'),
        ('importlib', 'import_module'),
        ('subprocess', 'Popen'),
        ('shutil', 'rmtree'),
        ('runpy', 'run_path'),
        ('ctypes', 'CDLL'),
        ('torch', 'load'),
        ('torch.hub', 'load'),
        ('torch.serialization', 'load'),
        ('torch.jit', 'load'),
        ('torch.utils.cpp_extension', 'load_inline'),
        ('torch', 'hub.load'),
        ('numpy', 'load'),
        ('numpy.testing._private.utils', 'runstring'),
        ('dill._dill', '_create_code'),
        ('cloudpickle.cloudpickle', '_make_function'),
        ('torch', ''),
        ('', 'x'),
        ('a b', 'c'),
    ],
)
def test_the_error_names_what_was_asked_for(tmp_path: Path, module: str, attribute: str) -> None:
    path = write(tmp_path / 'some.pt', b'\x80\x04' + stack_name(module, attribute) + b'.', 'zip')
    with pytest.raises(ValueError, match='some.pt is refused') as caught:
        read_checkpoint(path)
    today = {'__builtin__': 'builtins'}.get(module, module)
    assert f'{today}.{attribute}' in str(caught.value) or today == 'builtins'


def test_the_table_of_extensions_is_not_used(tmp_path: Path) -> None:
    copyreg.add_extension('os', 'getcwd', 77)
    try:
        path = write(tmp_path / 'some.pt', b'\x80\x02\x82M)R.', 'pickle')  # EXT1 77
        assert pickle.loads(path.read_bytes()) == str(Path.cwd())
        with pytest.raises(ValueError, match='refused, .*: it asks for the extension 77'):
            read_checkpoint(path)
    finally:
        copyreg.remove_extension('os', 'getcwd', 77)


@pytest.mark.parametrize(
    'target',
    [
        name('collections', 'OrderedDict'),
        name('torch._utils', '_rebuild_tensor_v2'),
        name('mmengine.logging.history_buffer', 'HistoryBuffer'),
        name('models.yolo', 'Model'),
        name('torch', 'float32'),
        name('torch', 'FloatStorage'),
        b'}',
        b']',
        b'K\x07',
        text('a'),
    ],
)
def test_no_class_or_function_is_changed(tmp_path: Path, target: bytes) -> None:
    """BUILD with (None, {attribute: value}) sets the attribute on whatever is there, a function of torch too."""
    state = b'N}' + text('harm') + b'K\x01s\x86b'
    for form in FORMS:
        with pytest.raises(ValueError, match=r'some\.pt is refused, .*: it asks for (a state for|torch.FloatStorage)'):
            read_checkpoint(write(tmp_path / 'some.pt', b'\x80\x04' + target + state + b'.', form))
    for owner in (collections.OrderedDict, torch._utils._rebuild_tensor_v2, HistoryBuffer, StandIn, torch.float32):
        assert not hasattr(owner, 'harm')


def test_functions_of_a_log_are_not_taken_over(tmp_path: Path) -> None:
    """MMEngine's own reading would call what a file registers as a statistic of the log."""
    before = dict(HistoryBuffer._statistics_methods)
    methods = b'}' + text('mean') + name('models.common', 'Harm') + b's'
    state = b'}' + text('statistics_methods') + methods + b's' + text('max_length') + b'K\x05s'
    content = name('mmengine.logging.history_buffer', 'HistoryBuffer') + b')\x81' + state + b'b'
    log = read_checkpoint(write(tmp_path / 'some.pt', b'\x80\x04' + content + b'.', 'zip'))
    assert log.max_length == 5
    assert before.items() <= HistoryBuffer._statistics_methods.items()
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


def test_stand_ins_do_nothing(tmp_path: Path) -> None:
    """Objects of other packages are made, called, filled and given a state; it is only noted."""
    made = name('models.yolo', 'Model') + b'K\x01' + CALL + b'}' + text('__class__') + b'K\x02sb'
    filled = made + b'(' + text('a') + b'K\x03u(K\x04e' + b'K\x05' + CALL
    read = read_checkpoint(write(tmp_path / 'some.pt', b'\x80\x04' + made + b'.', 'zip'))
    assert (type(read).__module__, type(read).__name__, read.args) == ('models.yolo', 'Model', (1,))
    assert read.state == {'__class__': 2} and read.get('__class__') == 2
    called = read_checkpoint(write(tmp_path / 'some.pt', b'\x80\x04' + filled + b'.', 'zip'))
    assert isinstance(called, StandIn) and called.args == (5,)


def storage(count: int, kind: str = 'FloatStorage') -> bytes:
    """The persistent id of the storage that the file of :func:`write` holds, with another count."""
    pushed = count.to_bytes(8, 'little', signed=True)
    ident = text('storage') + name('torch', kind) + text('0') + text('cpu') + b'\x8a\x08' + pushed
    return b'(' + ident + b'tQ'


def view(count: int, size: bytes, stride: bytes) -> bytes:
    arguments = storage(count) + b'K\x00' + size + stride + b'\x89' + name('collections', 'OrderedDict') + b')R'
    return b'\x80\x02' + name('torch._utils', '_rebuild_tensor_v2') + b'(' + arguments + b'tR.'


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (view(2**40, b'K\x02\x85', b'K\x01\x85'), 'which the file does not hold'),
        (view(-1, b'K\x02\x85', b'K\x01\x85'), 'refused'),
        (view(2, b'K\x03\x85', b'K\x01\x85'), r'refused, .* a tensor of \(3,\) elements from a storage of 2'),
        (view(2, b'J\x00\x00\x00\x70\x85', b'K\x00\x85'), 'refused, .* elements from a storage of 2'),
        (view(2, text('x'), text('y')), 'refused'),
        (b'\x80\x02' + text('path') + b'Q.', 'refused'),
        (b'\x80\x02Ppath\n.', 'refused'),
    ],
    ids=['more than there is', 'negative', 'view beyond it', 'endless', 'no numbers', 'persistent id', 'as text'],
)
def test_storages_are_checked(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_checkpoint(write(tmp_path / 'some.pt', content, 'zip'))


def test_the_storage_of_the_tests_above_is_right(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path / 'some.pt', view(2, b'K\x02\x85', b'K\x01\x85'), 'zip'))
    assert torch.equal(read, torch.zeros(2))


def test_archives_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / 'some.pt'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('some/data.pkl', pickle.dumps({}))
        archive.writestr('some/data/0', bytes(2**24))
    with pytest.raises(ValueError, match='refused, .*: it asks for more than 20 times its own size'):
        read_checkpoint(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('../data.pkl', pickle.dumps({}))
    with pytest.raises(ValueError, match='refused, .*: it asks for a file outside'):
        read_checkpoint(path)


def test_a_tar_that_starts_like_a_checkpoint_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch tries every old file as a tar archive first, and the name of a tar's first file may be any bytes."""
    opened = []
    monkeypatch.setattr(tarfile, 'open', lambda *args, **kwargs: opened.append(1))
    path = write(tmp_path / 'some.pt', pickle.dumps({'a': 1}, protocol=2), 'before torch 1.6')
    assert read_checkpoint(path) == {'a': 1}
    assert not opened


def test_a_plain_pickle_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / 'some.pkl'
    path.write_bytes(pickle.dumps({'w': torch.arange(3.0)}))
    assert torch.equal(read_checkpoint(path)['w'], torch.arange(3.0))
    nested = io.BytesIO()
    torch.save({'w': 1}, nested)
    inner = nested.getvalue()
    call = name('torch.storage', '_load_from_bytes') + b'B' + len(inner).to_bytes(4, 'little') + inner + CALL
    path.write_bytes(b'\x80\x04' + call + b'.')
    with pytest.raises(ValueError, match='refused, .*: it asks for a storage that is not as torch writes it'):
        read_checkpoint(path)
