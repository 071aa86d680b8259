from mmyolo_ext.cli.voc2coco import main

if __name__ == '__main__':
    main()
