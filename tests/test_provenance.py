"""Content credentials: what other programs read in saved pictures."""

import errno
import io
import json
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from dystyle.errors import InputError
from dystyle.pictures import SAVED
from dystyle.provenance import FORMATS, Credit, encode, save

CREDIT = Credit({"age": 60.0, "smile": 1.0}, photographed=True)


def said_in(image: Image.Image) -> tuple[dict[str, str], str]:
    """The XMP's properties without their namespaces, and its description."""
    root = ElementTree.fromstring(image.info["xmp"])
    (properties,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {name.split("}")[1]: value for name, value in properties.items()}, "".join(properties.itertext())


@pytest.fixture
def picture(astronaut) -> np.ndarray:
    return astronaut[:256, :320]


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_says_edited_by_ai_with_which_attributes_and_model(picture, kind):
    image = Image.open(io.BytesIO(encode(picture, kind, CREDIT)))
    assert image.format == SAVED[kind].reader
    said, line = said_in(image)
    assert said["DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "MobileStyleGAN" in said["AISystemUsed"]
    assert "Edited by AI" in line and "age = 60" in line and "smile = 1" in line
    difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - picture)
    assert difference.max() == 0 if kind in ("png", "tiff") else difference.mean() < 3


def test_a_person_who_does_not_exist_is_called_generated(picture):
    image = Image.open(io.BytesIO(encode(picture, "png", Credit({}, photographed=False))))
    assert said_in(image)[0]["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")


def test_the_model_is_the_one_that_was_used(picture, tmp_path):
    credit = Credit({}, photographed=True, steps=("mixed",), model="StyleFlow on StyleGAN2 (my & own.pt)")
    save(picture, tmp_path / "new" / "a.JPG", credit)
    said, line = said_in(Image.open(tmp_path / "new" / "a.JPG"))
    assert said["AISystemUsed"] == credit.model and credit.model in line and "mixed" in line


def test_a_file_is_written_in_whole_or_not_at_all(picture, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save(picture, path, CREDIT)
    before = path.read_bytes()

    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="could not be written .No space left on device"):
        save(picture[:64], path, CREDIT)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_visible_mark_changes_one_corner_only(picture):
    plain, marked = (
        np.asarray(Image.open(io.BytesIO(encode(picture, "png", CREDIT, mark)))) for mark in (False, True)
    )
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    assert rows.min() > picture.shape[0] * 0.8 and columns.min() > picture.shape[1] * 0.8
    assert np.ptp(marked[rows.min() : rows.max(), columns.min() : columns.max()].astype(int)) > 150


def test_unknown_format_is_refused(picture):
    with pytest.raises(InputError, match="bmp"):
        encode(picture, "bmp", CREDIT)


def _certificate(folder):
    """An authority and a signer's certificate below it, as C2PA wants them: (chain file, key file)."""
    now, keys, certificates = datetime.now(timezone.utc), [], []
    for i, title in enumerate(("Test authority", "Test signer")):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, title),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "T"),
            ]
        )
        above, signing = (certificates[0].subject, keys[0]) if i else (name, key)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "crl_sign", "encipher_only", "decipher_only"), False
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder(above, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=not i, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=bool(i), key_cert_sign=not i, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
            )
        )
        if i:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        keys.append(key)
        certificates.append(builder.sign(signing, hashes.SHA256()))
    pem = serialization.Encoding.PEM
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(c.public_bytes(pem) for c in reversed(certificates)))
    plain = serialization.NoEncryption()
    key.write_bytes(keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return chain, key


def test_configured_certificate_signs_a_manifest_that_breaks_when_the_picture_is_changed(
    picture, tmp_path, monkeypatch
):
    c2pa = pytest.importorskip("c2pa")
    chain, key = _certificate(tmp_path)
    monkeypatch.setenv("DYSTYLE_C2PA_CERTIFICATE", str(chain))
    monkeypatch.setenv("DYSTYLE_C2PA_KEY", str(key))

    def problems(signed: bytes, kind: str) -> tuple[dict, set[str]]:
        with c2pa.Reader(FORMATS[kind], io.BytesIO(signed)) as reader:
            store = json.loads(reader.json())
        return store, {status["code"] for status in store.get("validation_status", [])}

    for kind in FORMATS:
        signed = encode(picture, kind, CREDIT)
        store, found = problems(signed, kind)
        manifest = store["manifests"][store["active_manifest"]]
        assertions = {a["label"]: a["data"] for a in manifest["assertions"]}
        assert assertions["org.dystyle.edit"]["attributes"] == {"age": 60, "smile": 1}
        opened, action = assertions["c2pa.actions.v2"]["actions"]
        assert opened["action"] == "c2pa.opened" and action["action"] == "c2pa.edited"
        assert action["digitalSourceType"] == CREDIT.source_type
        assert found <= {"signingCredential.untrusted"}  # nobody trusts the test's authority
        changed = signed.replace(b":AISystemUsed=", b":AISystemUsee=")
        assert any("Hash.mismatch" in code for code in problems(changed, kind)[1])

    store, found = problems(encode(picture, "png", Credit({}, photographed=False)), "png")
    (assertion,) = (
        a for a in store["manifests"][store["active_manifest"]]["assertions"] if "actions" in a["label"]
    )
    assert [a["action"] for a in assertion["data"]["actions"]] == ["c2pa.created"]
    assert found <= {"signingCredential.untrusted"}

    monkeypatch.setenv("DYSTYLE_C2PA_KEY", str(tmp_path / "missing.pem"))
    with pytest.raises(InputError, match="could not sign"):
        encode(picture, "png", CREDIT)
