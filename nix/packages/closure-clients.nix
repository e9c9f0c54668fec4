# The closure with the image `clients` in it, for the check `clients`. Users do not get it.
{ bare, closure, image-clients }:
bare {
  name = "closure-clients.json";
  script = ''
    sed "s|\"images\":{|&\"clients\":$(cat ${image-clients}/image.json),|" ${closure} > $out
    grep -q '"images":{"clients":' $out
  '';
}
